"""What runs on the server: a batch as one Lua script, all or nothing, and exactly once by its token.

It needs no server module, touches only KEYS, and keeps to the Lua that fakeredis has. A script of Redis is not rolled
back when a command in it fails, so everything that could fail is decided before the first write.

There are four scripts, and each says what its KEYS and ARGV are. An operation is: name, key (its place in KEYS), number
of arguments, arguments. A name begins with what the key has to hold: `v` a value, `h` a hash, `z` a sorted set; other
names work on any. A refusal is a list whose first word says why.

A value is stored as its version, a space, and its bytes. The keys that are there are the members of the index, a sorted
set in lexical order: its pages can be had from any server that has the data, where the cursor of a ZSCAN means nothing
after a failover. A second one has the keys that expire, by when, in milliseconds.

Lua's numbers are doubles: sums of up to 13 digits are numbers, others are done in two halves to the base 10^9.
"""

from __future__ import annotations

import hashlib
from typing import Final

from attrs import field, frozen

from empathy_kv.kv.operations import SCORE_MAX, TOKEN_AHEAD, TOKEN_LIFE, TOKEN_MEMORY

_NUMBERS: Final = (
    ("TOKEN_MEMORY", TOKEN_MEMORY),
    ("TOKEN_LIFE", TOKEN_LIFE),
    ("TOKEN_AHEAD", TOKEN_AHEAD),
    ("SCORE_MAX", int(SCORE_MAX)),
)


def _numbered(source: str) -> bytes:
    for name, number in _NUMBERS:
        source = source.replace(name, str(number))
    return source.encode()


@frozen
class Script:
    """A script, as the first two strings of the command that runs it, in the form of the wire (RESP)."""

    source: bytes = field(converter=_numbered)
    named: bytes = field(init=False)
    """EVALSHA and the digest: for a server that knows the script."""
    whole: bytes = field(init=False)
    """EVAL and the source."""

    @named.default
    def _named(self) -> bytes:
        return b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % (
            hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()
        )

    @whole.default
    def _whole(self) -> bytes:
        return b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(self.source), self.source)


_COMMON: Final = """
local call = redis.call
local unpack = unpack or table.unpack

local function now()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function version(key)
  return string.match(call('GETRANGE', key, 0, 24), '^(%d+) ') or '0'
end
"""

_LOOK: Final = """
local function look(name, key, from)
  if name == 'vget' then return call('GET', key)
  elseif name == 'hgetall' then return call('HGETALL', key)
  elseif name == 'hget' then return call('HGET', key, ARGV[from])
  elseif name == 'zscore' then return call('ZSCORE', key, ARGV[from])
  elseif name == 'zrange' then return call('ZRANGE', key, ARGV[from], ARGV[from + 1], 'WITHSCORES')
  elseif name == 'zcard' then return call('ZCARD', key)
  elseif name == 'vversion' then return version(key)
  elseif name == 'exists' then return call('EXISTS', key)
  elseif name == 'ttl' then return call('PTTL', key)
  elseif ARGV[from + 2] == '' then
    return call('ZRANGEBYSCORE', key, ARGV[from], ARGV[from + 1], 'WITHSCORES')
  end
  return call('ZRANGEBYSCORE', key, ARGV[from], ARGV[from + 1], 'WITHSCORES', 'LIMIT', 0, ARGV[from + 2])
end
"""

READ: Final = Script(
    _COMMON
    + """
-- KEYS: the keys. ARGV: operations that only read; or "get" alone, for the values of all keys.
-- Returns {"done", replies}.

local function kind(key)
  local reply = call('TYPE', key)
  if type(reply) == 'table' then reply = reply['ok'] end
  return reply
end

local replies = {}
if ARGV[1] == 'get' then
  for from = 1, #KEYS, 2000 do
    local values = call('MGET', unpack(KEYS, from, math.min(from + 1999, #KEYS)))
    for i = 1, #values do
      local value = values[i]
      if not value then  -- MGET says so of what is no value, too.
        local key = KEYS[from + i - 1]
        local held = kind(key)
        if held ~= 'none' and held ~= 'string' then return {'kind', key, held} end
      end
      replies[from + i - 1] = value
    end
  end
  return {'done', replies}
end
"""
    + _LOOK
    + """
local kinds = {v = 'string', h = 'hash', z = 'zset'}
local at = 1
while at <= #ARGV do
  local name, key = ARGV[at], KEYS[tonumber(ARGV[at + 1])]
  local need = kinds[string.sub(name, 1, 1)]
  if need then
    local held = kind(key)
    if held ~= 'none' and held ~= need then return {'kind', key, held} end
  end
  replies[#replies + 1] = look(name, key, at + 3)
  at = at + 3 + tonumber(ARGV[at + 2])
end
return {'done', replies}
"""
)

PAGE: Final = Script(
    _COMMON
    + """
-- KEYS: index, expiries. ARGV: what the last page ended with, as ZRANGEBYLEX takes it, and how many to look at.
-- Returns the last key that was looked at, "" if it was the last of all, and those that are there.

local keys = call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
if #keys == 0 then return {''} end
local page = {#keys < tonumber(ARGV[2]) and '' or keys[#keys]}
local expiries = call('ZMSCORE', KEYS[2], unpack(keys))
local clock = now()
for i = 1, #keys do
  if not expiries[i] or tonumber(expiries[i]) > clock then page[#page + 1] = keys[i] end
end
return page
"""
)

SETTLE: Final = Script(
    _COMMON
    + """
-- KEYS: slots of the writer. ARGV: slot, sequence, issued (ms).
-- Returns {"done", {1 or 0}}: whether the write was applied. If not, it is void from now on.

local sequence, issued = tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = call('HGET', KEYS[1], ARGV[1])
if kept then
  local last, sum = string.match(kept, '^(%d+) (%S+) ')
  last = tonumber(last)
  if last == sequence then
    call('PEXPIRE', KEYS[1], TOKEN_MEMORY)
    return {'done', {sum ~= '-' and 1 or 0}}
  end
  if last > sequence then return {'token', 'passed'} end
end
local clock = now()
if issued + TOKEN_LIFE <= clock then return {'token', 'old'} end
if issued > clock + TOKEN_AHEAD then return {'token', 'ahead'} end
call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' - ')
call('PEXPIRE', KEYS[1], TOKEN_MEMORY)
return {'done', {0}}
"""
)

WRITE: Final = Script(
    _COMMON
    + """
-- KEYS  1 revision (a string)   2 index   3 expiries   4 slots of the writer (a hash)   5.. the batch's keys
-- ARGV  1 "w", or "r" if no operation writes   2 number of checks
--       then a check: key (its place in KEYS), version ("": there, "0": absent), "m" or "", member
--       then the operations
--       and at the end of all: slot, or ""; sequence; digest of the batch; issued (ms)
-- Returns {"done", replies}, or {"again", replies as RESP text} if it was done before.

local last = #ARGV - 4
local slot, sequence, digest, issued = ARGV[last + 1], tonumber(ARGV[last + 2]), ARGV[last + 3], ARGV[last + 4]
local clock

-- Exactly once

if slot ~= '' then
  local kept = call('HGET', KEYS[4], slot)
  if kept then
    local passed, sum = string.match(kept, '^(%d+) (%S+) ')
    local number = tonumber(passed)
    if number == sequence then
      if sum == '-' then return {'token', 'void'} end
      if sum ~= digest then return {'token', 'reused'} end
      -- A write, so that a WAIT on this connection waits for the first one too.
      call('PEXPIRE', KEYS[4], TOKEN_MEMORY)
      return {'again', string.sub(kept, #passed + #sum + 3)}
    end
    if number > sequence then return {'token', 'passed'} end
  end
  clock, issued = now(), tonumber(issued)
  if issued + TOKEN_LIFE <= clock then return {'token', 'old'} end
  if issued > clock + TOKEN_AHEAD then return {'token', 'ahead'} end
end

-- Admission

-- kinds: what a key will hold. was: whether it was there. fresh: nothing is left of what it held before the batch.
local kinds, was, fresh = {}, {}, {}
local function kind(key)
  local reply = call('TYPE', key)
  if type(reply) == 'table' then reply = reply['ok'] end
  kinds[key] = reply
  was[key] = reply ~= 'none'
  return reply
end

local at = 3
for i = 0, tonumber(ARGV[2]) - 1 do
  local key, wanted, what, member = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  local held = kinds[key] or kind(key)
  local actual = '0'
  if what == 'm' then
    if held ~= 'none' and held ~= 'zset' then return {'kind', key, held} end
    if call('ZSCORE', key, member) then actual = '-1' end
  elseif held == 'string' then
    actual = version(key)
  elseif held ~= 'none' then
    if wanted ~= '' and wanted ~= '0' then return {'kind', key, held} end
    actual = '-1'
  end
  if wanted == '' then
    if actual == '0' then return {'check', i, actual} end
  elseif wanted ~= actual then
    return {'check', i, actual}
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

-- The sum of two integers in decimal, as a number or in decimal; nil and why if there is none.
local function sum(a, b)
  if #a < 14 and #b < 14 and (a == '0' or string.find(a, '^[1-9]%d*$')) then return a + b end
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
  if high == 0 then return low + 0 end
  return string.format('%.0f', high) .. string.format('%09.0f', math.abs(low))
end

local function payload(key)
  local stored = call('GET', key)
  return stored and string.sub(stored, string.find(stored, ' ', 1, true) + 1)
end

-- What the operations so far have made of values and of fields; false is absent. highest: a score that no member that
-- was added exceeds. sums: of an operation that counts, by where it stands.
local values, fields, highest, sums = {}, {}, {}, {}
local first = at
while at <= last do
  local name, key, count = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local from = at + 3
  local held = kinds[key] or kind(key)
  if held ~= 'none' then
    local initial = string.byte(name)
    if (initial == 104 and held ~= 'hash') or (initial == 122 and held ~= 'zset')
      or (initial == 118 and held ~= 'string') then return {'kind', key, held} end
  end
  if name == 'hincrby' then
    local middle = count / 2
    local known = fields[key] or {}
    fields[key] = known
    local stored = {}
    if held ~= 'none' and not fresh[key] then
      if middle <= 1000 then
        stored = call('HMGET', key, unpack(ARGV, from, from + middle - 1))
      else
        for i = 1, middle do stored[i] = call('HGET', key, ARGV[from + i - 1]) end
      end
    end
    local totals = {}
    for i = 1, middle do
      local field, by = ARGV[from + i - 1], ARGV[from + middle + i - 1]
      local old = known[field]
      if old == nil then old = stored[i] elseif type(old) == 'number' then old = string.format('%.0f', old) end
      local total, why = sum(old or '0', by)
      if not total then return {why, key, field} end
      totals[i], known[field] = total, total
    end
    sums[at] = totals
    kinds[key] = 'hash'
  elseif name == 'vincrby' then
    local old = values[key]
    if old == nil and held ~= 'none' and not fresh[key] then
      old = payload(key)
    elseif type(old) == 'number' then
      old = string.format('%.0f', old)
    end
    local total, why = sum(old or '0', ARGV[from])
    if not total then return {why, key, ''} end
    sums[at], values[key] = total, total
    kinds[key] = 'string'
  elseif name == 'hset' then
    local known = fields[key] or {}
    fields[key] = known
    for i = from, from + count - 1, 2 do known[ARGV[i]] = ARGV[i + 1] end
    kinds[key] = 'hash'
  elseif name == 'zadd' then
    local top = highest[key] or 0
    for i = from + 1, from + count - 1, 2 do top = math.max(top, tonumber(ARGV[i])) end
    highest[key] = top
    kinds[key] = 'zset'
  elseif name == 'zappend' then
    local top = highest[key] or 0
    if held ~= 'none' and not fresh[key] then
      top = math.max(top, tonumber(call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2] or '0'))
    end
    if top > SCORE_MAX - count then return {'exhausted', key} end
    highest[key] = top + count
    kinds[key] = 'zset'
  elseif name == 'set' then
    values[key], fields[key], highest[key], fresh[key] = ARGV[from], nil, 0, true
    kinds[key] = 'string'
  elseif name == 'del' then
    values[key], fields[key], highest[key], fresh[key] = nil, nil, 0, true
    kinds[key] = 'none'
  elseif name == 'hdel' then
    local known = fields[key] or {}
    fields[key] = known
    for i = from, from + count - 1 do known[ARGV[i]] = false end
  end
  at = from + count
end

-- Execution

local revision
if ARGV[1] == 'w' then revision = string.format('%.0f', call('INCR', KEYS[1])) end

-- alive: whether a key that was written is there. expires: when it will be gone, false is never.
local alive, expires = {}, {}

local function gone(key)
  if call('EXISTS', key) == 0 then alive[key], expires[key] = false, false end
end

-- A command with many arguments, in pieces that Lua's stack takes.
local function pieces(command, key, from, to)
  if to - from < 2000 then return call(command, key, unpack(ARGV, from, to)) end
  local total = 0
  for i = from, to, 2000 do total = total + call(command, key, unpack(ARGV, i, math.min(i + 1999, to))) end
  return total
end
"""
    + _LOOK
    + """
local replies, number = {}, 0
at = first
while at <= last do
  local name, key, count = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local from = at + 3
  local to = from + count - 1
  local reply
  if name == 'hincrby' then
    local totals, middle = sums[at], count / 2
    for i = 1, middle, 1000 do
      local entries, size = {}, 0
      for j = i, math.min(i + 999, middle) do
        entries[size + 1], entries[size + 2] = ARGV[from + j - 1], totals[j]
        size = size + 2
      end
      call('HSET', key, unpack(entries))
    end
    alive[key] = true
    reply = table.concat(totals, ' ')
  elseif name == 'zadd' then
    alive[key] = true
    if ARGV[from] == '' then
      reply = pieces('ZADD', key, from + 1, to)
    elseif count < 2000 then
      reply = call('ZADD', key, unpack(ARGV, from, to))
    else
      reply = 0
      for i = from + 1, to, 2 do reply = reply + call('ZADD', key, ARGV[from], ARGV[i], ARGV[i + 1]) end
    end
  elseif name == 'ztrim' then
    local surplus = call('ZCARD', key) - tonumber(ARGV[from])
    reply = 0
    if surplus > 0 then
      reply = call('ZREMRANGEBYRANK', key, 0, surplus - 1)
      gone(key)
    end
  elseif name == 'set' then
    local ttl = ARGV[to]
    if ttl == '' then
      call('SET', key, revision .. ' ' .. ARGV[from])
      expires[key] = false
    else
      call('SET', key, revision .. ' ' .. ARGV[from], 'PX', ttl)
      expires[key] = tonumber(ttl)
    end
    alive[key] = true
    reply = revision
  elseif name == 'hset' then
    alive[key] = true
    reply = pieces('HSET', key, from, to)
  elseif name == 'zappend' then
    alive[key] = true
    local newest = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
    local score = math.max(tonumber(newest[2] or '0'), -SCORE_MAX)
    for i = from, to do
      score = score + 1
      call('ZADD', key, string.format('%.17g', score), ARGV[i])
    end
    reply = string.format('%.17g', score)
  elseif name == 'vincrby' then
    call('SET', key, revision .. ' ' .. sums[at], 'KEEPTTL')
    alive[key] = true
    reply = sums[at]
    if type(reply) == 'number' then reply = string.format('%.0f', reply) end
  elseif name == 'del' then
    reply = call('DEL', key)
    alive[key], expires[key] = false, false
  elseif name == 'hdel' then
    reply = pieces('HDEL', key, from, to)
    if reply > 0 then gone(key) end
  elseif name == 'zrem' then
    reply = pieces('ZREM', key, from, to)
    if reply > 0 then gone(key) end
  elseif name == 'expire' then
    reply = call('EXISTS', key)
    if reply == 1 then
      if ARGV[from] == '' then
        call('PERSIST', key)
        expires[key] = false
      else
        call('PEXPIRE', key, ARGV[from])
        expires[key] = tonumber(ARGV[from])
      end
    end
  else
    reply = look(name, key, from)
  end
  number = number + 1
  replies[number] = reply
  at = to + 1
end
if ARGV[1] == 'r' then return {'done', replies} end

-- The index of keys

-- A key has its namespace's tag and a colon before its name; the index has the tag and `#keys`.
local skip = #KEYS[2] - 3
for key, before in pairs(was) do
  local lives, name = alive[key], nil
  if lives == nil then lives = before end
  local ends = expires[key]
  if lives and not before then
    name = string.sub(key, skip)
    -- It may still be there from a life that expired.
    if call('ZADD', KEYS[2], 0, name) == 0 and not ends then ends = false end
  elseif not lives then
    ends = nil
    if before then
      name = string.sub(key, skip)
      call('ZREM', KEYS[2], name)
      ends = false
    end
  end
  if ends then
    clock = clock or now()
    call('ZADD', KEYS[3], string.format('%.0f', clock + ends), name or string.sub(key, skip))
  elseif ends == false then
    call('ZREM', KEYS[3], name or string.sub(key, skip))
  end
end
if clock and next(expires) then
  local over = call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', clock - 1000), 'LIMIT', 0, 1000)
  if #over > 0 then
    call('ZREM', KEYS[2], unpack(over))
    call('ZREM', KEYS[3], unpack(over))
  end
end

-- The memory of the writer

if slot ~= '' then
  local kept, size = {ARGV[last + 2] .. ' ' .. digest .. ' *' .. number}, 1
  local function keep(value)
    size = size + 1
    if type(value) == 'string' then
      kept[size] = '$' .. #value .. '\\r\\n' .. value
    elseif type(value) == 'number' then
      kept[size] = ':' .. value
    elseif not value then
      kept[size] = '$-1'
    else
      kept[size] = '*' .. #value
      for i = 1, #value do keep(value[i]) end
    end
  end
  for i = 1, number do keep(replies[i]) end
  kept[size + 1] = ''
  call('HSET', KEYS[4], slot, table.concat(kept, '\\r\\n'))
  call('PEXPIRE', KEYS[4], TOKEN_MEMORY)
end
return {'done', replies}
"""
)
