"""The commit: one Lua script that executes a batch, all or nothing, and exactly once by its token.

It needs no server module, touches only KEYS, and keeps to the Lua that fakeredis has. A script of Redis is not rolled
back when a command in it fails, so everything that could fail is decided before the first write.

KEYS  1 revision (string)   2 index (sorted set: key, its expiry)   3 slots of the writer (hash)   4.. the batch's keys
ARGV  1 "r" reads, "w" writes, "s" settles   2 slot, or ""   3 sequence   4 digest   5 issued (ms)
      6 how many bytes of a key stand before its name   7 number of checks
      then a check: key (its place in KEYS), version ("": there, "0": absent), "m" or "", member
      then an operation: name, key, number of arguments, arguments

Returns {"done", replies}, {"again", replies as RESP text}, or a refusal, whose first word says why.

A value is stored as its version, a space, and its bytes. 64-bit sums are done in two halves to the base 10^9, because
Lua's numbers are doubles.
"""

from __future__ import annotations

import hashlib
from typing import Final

from empathy_kv.kv.operations import SCORE_MAX, TOKEN_AHEAD, TOKEN_LIFE, TOKEN_MEMORY

_SOURCE = """
local unpack = unpack or table.unpack
local cursor = 7
local function take()
  cursor = cursor + 1
  return ARGV[cursor]
end

local mode, slot, sequence, digest = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local clock
local function now()
  if not clock then
    local time = redis.call('TIME')
    clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return clock
end

local function text(number)
  return string.format('%.0f', number)
end

local function record(sum, replies)
  redis.call('HSET', KEYS[3], slot, text(sequence) .. ' ' .. sum .. ' ' .. replies)
  redis.call('PEXPIRE', KEYS[3], TOKEN_MEMORY)
end

-- Exactly once

if slot ~= '' then
  local kept = redis.call('HGET', KEYS[3], slot)
  local last, sum, replies
  if kept then
    last, sum, replies = string.match(kept, '^(%d+) (%S+) (.*)$')
    last = tonumber(last)
  end
  if last == sequence then
    if mode == 's' then return {'done', {sum ~= '-' and 1 or 0}} end
    if sum == '-' then return {'token', 'void'} end
    if sum ~= digest then return {'token', 'reused'} end
    return {'again', replies}
  end
  if last and last > sequence then return {'token', 'passed'} end
  if tonumber(ARGV[5]) + TOKEN_LIFE <= now() then return {'token', 'old'} end
  if tonumber(ARGV[5]) > now() + TOKEN_AHEAD then return {'token', 'ahead'} end
  if mode == 's' then
    record('-', '')
    return {'done', {0}}
  end
end

-- Admission

local kinds, was, before = {}, {}, {}
local function kind(key)
  if kinds[key] == nil then
    local reply = redis.call('TYPE', key)
    if type(reply) == 'table' then reply = reply['ok'] end
    kinds[key] = reply
    was[key] = reply ~= 'none'
    before[key] = was[key]
  end
  return kinds[key]
end

local function version(key)
  return string.match(redis.call('GETRANGE', key, 0, 24), '^(%d+) ') or '0'
end

for i = 1, tonumber(ARGV[7]) do
  local key, wanted, what, member = KEYS[tonumber(take())], take(), take(), take()
  local held = kind(key)
  local actual = '0'
  if what == 'm' then
    if held ~= 'none' and held ~= 'zset' then return {'kind', key, held} end
    if redis.call('ZSCORE', key, member) then actual = '-1' end
  elseif held == 'string' then
    actual = version(key)
  elseif held ~= 'none' then
    if wanted ~= '' and wanted ~= '0' then return {'kind', key, held} end
    actual = '-1'
  end
  if wanted == '' then
    if actual == '0' then return {'check', i - 1, actual} end
  elseif wanted ~= actual then
    return {'check', i - 1, actual}
  end
end

local function beyond(high, low)
  if high < 0 or low < 0 then
    return high < -9223372036 or (high == -9223372036 and low < -854775808)
  end
  return high > 9223372036 or (high == 9223372036 and low > 854775807)
end

local function split(digits)
  if digits ~= '0' and not string.match(digits, '^%-?[1-9]%d*$') then return nil end
  local sign = 1
  if string.sub(digits, 1, 1) == '-' then
    sign = -1
    digits = string.sub(digits, 2)
  end
  if #digits > 19 then return nil end
  local high = sign * (tonumber(string.sub(digits, 1, -10)) or 0)
  local low = sign * tonumber(string.sub(digits, -9))
  if beyond(high, low) then return nil end
  return high, low
end

-- The sum of two integers in decimal; nil and why if there is none.
local function sum(a, b)
  local high, low = split(a)
  if not high then return nil, 'counter' end
  local high2, low2 = split(b)
  high, low = high + high2, low + low2
  if low >= 1000000000 then
    high, low = high + 1, low - 1000000000
  elseif low <= -1000000000 then
    high, low = high - 1, low + 1000000000
  end
  if high > 0 and low < 0 then
    high, low = high - 1, low + 1000000000
  elseif high < 0 and low > 0 then
    high, low = high + 1, low - 1000000000
  end
  if beyond(high, low) then return nil, 'overflow' end
  if high == 0 then return text(low + 0) end
  return text(high) .. string.format('%09.0f', math.abs(low))
end

local function payload(key)
  local stored = redis.call('GET', key)
  if not stored then return nil end
  return string.sub(stored, string.find(stored, ' ', 1, true) + 1)
end

local needs = {
  get = 'string', version = 'string', incrby = 'string',
  hget = 'hash', hgetall = 'hash', hset = 'hash', hdel = 'hash', hincrby = 'hash',
  zadd = 'zset', zappend = 'zset', zrange = 'zset', zrangebyscore = 'zset', zscore = 'zset', zcard = 'zset',
  zrem = 'zset', ztrim = 'zset',
}
local makes = {set = 'string', incrby = 'string', hset = 'hash', hincrby = 'hash', zadd = 'zset', zappend = 'zset'}

-- What the operations so far have made of a value ([key]['']) or of fields ([key]['=' .. field]); false is absent.
-- fresh: nothing is left of what the key held before the batch. highest: a score that no member added exceeds.
local foreseen, fresh, highest = {}, {}, {}
local operations = {}
while cursor < #ARGV do
  local name, key, count = take(), KEYS[tonumber(take())], tonumber(take())
  local arguments = {}
  for i = 1, count do arguments[i] = take() end
  operations[#operations + 1] = {name, key, arguments}
  local held = kind(key)
  if needs[name] and held ~= 'none' and held ~= needs[name] then return {'kind', key, held, #operations - 1} end
  if makes[name] then kinds[key] = makes[name] end
  if name == 'set' or name == 'del' then
    foreseen[key] = {}
    fresh[key] = true
    highest[key] = 0
    if name == 'set' then foreseen[key][''] = arguments[1] else kinds[key] = 'none' end
  elseif name == 'hset' or name == 'hdel' then
    local fields = foreseen[key] or {}
    foreseen[key] = fields
    if name == 'hset' then
      for i = 1, count, 2 do fields['=' .. arguments[i]] = arguments[i + 1] end
    else
      for i = 1, count do fields['=' .. arguments[i]] = false end
    end
  elseif name == 'incrby' or name == 'hincrby' then
    local fields = foreseen[key] or {}
    foreseen[key] = fields
    for i = 1, count, 2 do
      local field, at = arguments[i], '=' .. arguments[i]
      if name == 'incrby' then at = '' end
      local value = fields[at]
      if value == nil and not fresh[key] then
        if name == 'incrby' then value = payload(key) else value = redis.call('HGET', key, field) end
      end
      local total, why = sum(value or '0', arguments[i + 1])
      if not total then return {why, key, field} end
      fields[at] = total
    end
  elseif name == 'zadd' then
    for i = 2, count, 2 do highest[key] = math.max(highest[key] or 0, tonumber(arguments[i])) end
  elseif name == 'zappend' then
    local top = highest[key] or 0
    if not fresh[key] then top = math.max(top, tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2] or '0')) end
    if top > SCORE_MAX - count then return {'exhausted', key} end
    highest[key] = top + count
  end
end

-- Execution

local revision
if mode == 'w' then revision = text(redis.call('INCR', KEYS[1])) end

local alive, scores = {}, {}
local function gone(key)
  if redis.call('EXISTS', key) == 0 then
    alive[key] = false
    before[key] = false
    scores[key] = nil
  end
end

-- A command with many arguments, in pieces that Lua's stack takes.
local function pieces(command, key, option, arguments)
  local total = 0
  for from = 1, #arguments, 2000 do
    local piece = {unpack(arguments, from, math.min(from + 1999, #arguments))}
    if option then table.insert(piece, 1, option) end
    total = total + redis.call(command, key, unpack(piece))
  end
  return total
end

local run = {}
function run.get(key) return redis.call('GET', key) end
function run.version(key) return version(key) end
function run.set(key, a)
  if a[2] == '' then
    redis.call('SET', key, revision .. ' ' .. a[1])
    scores[key] = '+inf'
  else
    redis.call('SET', key, revision .. ' ' .. a[1], 'PX', a[2])
    scores[key] = text(now() + tonumber(a[2]))
  end
  alive[key] = true
  return revision
end
function run.incrby(key, a)
  local total = sum(payload(key) or '0', a[2])
  if redis.call('PTTL', key) >= 0 then
    redis.call('SET', key, revision .. ' ' .. total, 'KEEPTTL')
  else
    redis.call('SET', key, revision .. ' ' .. total)
  end
  alive[key] = true
  return total
end
function run.del(key)
  local removed = redis.call('DEL', key)
  gone(key)
  return removed
end
function run.exists(key) return redis.call('EXISTS', key) end
function run.ttl(key) return redis.call('PTTL', key) end
function run.expire(key, a)
  if redis.call('EXISTS', key) == 0 then return 0 end
  if a[1] == '' then
    redis.call('PERSIST', key)
    scores[key] = '+inf'
  else
    redis.call('PEXPIRE', key, a[1])
    scores[key] = text(now() + tonumber(a[1]))
  end
  return 1
end
function run.hget(key, a) return redis.call('HGET', key, a[1]) end
function run.hgetall(key) return redis.call('HGETALL', key) end
function run.hset(key, a)
  alive[key] = true
  return pieces('HSET', key, nil, a)
end
function run.hdel(key, a)
  local removed = pieces('HDEL', key, nil, a)
  gone(key)
  return removed
end
function run.hincrby(key, a)
  local totals = {}
  for i = 1, #a, 2 do
    local total = redis.call('HINCRBY', key, a[i], a[i + 1])
    if math.abs(total) >= 9007199254740992 then total = redis.call('HGET', key, a[i]) else total = text(total) end
    totals[#totals + 1] = total
  end
  alive[key] = true
  return totals
end
function run.zadd(key, a)
  alive[key] = true
  local option = table.remove(a, 1)
  if option == '' then option = nil end
  return pieces('ZADD', key, option, a)
end
function run.zappend(key, a)
  alive[key] = true
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  local score = math.max(tonumber(last[2] or '0'), -SCORE_MAX)
  for i = 1, #a do
    score = score + 1
    redis.call('ZADD', key, string.format('%.17g', score), a[i])
  end
  return string.format('%.17g', score)
end
function run.zrange(key, a) return redis.call('ZRANGE', key, a[1], a[2], 'WITHSCORES') end
function run.zrangebyscore(key, a)
  if a[3] == '' then return redis.call('ZRANGEBYSCORE', key, a[1], a[2], 'WITHSCORES') end
  return redis.call('ZRANGEBYSCORE', key, a[1], a[2], 'WITHSCORES', 'LIMIT', 0, a[3])
end
function run.zscore(key, a) return redis.call('ZSCORE', key, a[1]) end
function run.zcard(key) return redis.call('ZCARD', key) end
function run.zrem(key, a)
  local removed = pieces('ZREM', key, nil, a)
  gone(key)
  return removed
end
function run.ztrim(key, a)
  local surplus = redis.call('ZCARD', key) - tonumber(a[1])
  if surplus <= 0 then return 0 end
  local removed = redis.call('ZREMRANGEBYRANK', key, 0, text(surplus - 1))
  gone(key)
  return removed
end

local replies = {}
for i = 1, #operations do
  local operation = operations[i]
  replies[i] = run[operation[1]](operation[2], operation[3])
end
if mode == 'r' then return {'done', replies} end

-- The index of keys, and the memory of the writer

local skip = tonumber(ARGV[6]) + 1
for key, lives in pairs(was) do
  if alive[key] ~= nil then lives = alive[key] end
  if lives and (scores[key] or not before[key]) then
    redis.call('ZADD', KEYS[2], scores[key] or '+inf', string.sub(key, skip))
  elseif was[key] and not lives then
    redis.call('ZREM', KEYS[2], string.sub(key, skip))
  end
end
if clock and next(scores) then redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now() - 1000)) end

local function resp(value)
  if type(value) == 'table' then
    local parts = {'*' .. #value .. '\\r\\n'}
    for i = 1, #value do parts[i + 1] = resp(value[i]) end
    return table.concat(parts)
  elseif type(value) == 'number' then
    return ':' .. text(value) .. '\\r\\n'
  elseif not value then
    return '$-1\\r\\n'
  end
  return '$' .. #value .. '\\r\\n' .. value .. '\\r\\n'
end
if slot ~= '' then record(digest, resp(replies)) end
return {'done', replies}
"""
for _name, _number in (
    ("TOKEN_MEMORY", TOKEN_MEMORY),
    ("TOKEN_LIFE", TOKEN_LIFE),
    ("TOKEN_AHEAD", TOKEN_AHEAD),
    ("SCORE_MAX", int(SCORE_MAX)),
):
    _SOURCE = _SOURCE.replace(_name, str(_number))
SOURCE: Final = _SOURCE

DIGEST: Final = hashlib.sha1(SOURCE.encode(), usedforsecurity=False).hexdigest()
"""What EVALSHA names the script by."""
