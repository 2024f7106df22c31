"""What runs on the server: a batch as one Lua script, all or nothing, and exactly once by its token.

It needs no server module, touches only KEYS, and keeps to the Lua that fakeredis has. A script of Redis is not rolled
back when a command in it fails, so everything that could fail is decided before the first write.

There are four scripts, one of them made anew for each snapshot, and each says what its KEYS and ARGV are. A refusal is
a list whose first word says why. What only reads needs none: it is a transaction (MULTI), which costs a third.

A value is stored as its version, a space, and its bytes. The keys that are there are the members of the index, a sorted
set in lexical order: its pages can be had from any server that has the data, where the cursor of a ZSCAN means nothing
after a failover. A second one has the keys that expire, by when, in milliseconds.

Who takes a snapshot watches a namespace: as long as a hash for that is there, which expires, a write notes the keys
that it changed in a sorted set, by its revision; and it has to come again while the field `on` says so, for a moment.

Lua's numbers are doubles: sums of up to 13 digits are numbers, others are done in two halves to the base 10^9.
"""

from __future__ import annotations

import functools
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
-- KEYS: the writer's slot. ARGV: sequence, issued (ms).
-- Returns whether the write was applied, 1 or 0. If not, it is void from now on.

local sequence, issued = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = call('GET', KEYS[1])
if kept then
  local last, sum = string.match(kept, '^(%d+) (%S+) ')
  last = tonumber(last)
  if last == sequence then
    -- A write, so that a WAIT on this connection waits for the first one too.
    call('PEXPIRE', KEYS[1], TOKEN_MEMORY)
    return sum ~= '-' and 1 or 0
  end
  if last > sequence then return {'token', 'passed'} end
end
local clock = now()
if issued + TOKEN_LIFE <= clock then return {'token', 'old'} end
if issued > clock + TOKEN_AHEAD then return {'token', 'ahead'} end
call('SET', KEYS[1], ARGV[1] .. ' - ', 'PX', TOKEN_MEMORY)
return 0
"""
)

_WATCH: Final = (
    _COMMON
    + """
-- KEYS: the namespace's watch (a hash), what was written (a sorted set), its revision.
-- ARGV: what to do, who watches, milliseconds, a revision.
-- The watch has `on` (until when nobody may write, and who says so; "0" is never), `watchers` (how many there are), and
-- a field `by:` each of them. Both keys expire together.

local watch, written, verb, who, span = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local function last()
  if call('PTTL', watch) < tonumber(span) then
    call('PEXPIRE', watch, span)
    call('PEXPIRE', written, span)
  end
end

if verb == 'begin' then
  -- Returns the revision.
  if call('HSET', watch, 'by:' .. who, '1') == 1 then
    call('HSET', watch, 'watchers', string.format('%.0f', tonumber(call('HGET', watch, 'watchers') or '0') + 1))
  end
  if not call('HGET', watch, 'on') then call('HSET', watch, 'on', '0') end
  call('ZADD', written, 0, '')
  last()
  return call('GET', KEYS[3]) or '0'
end
if not call('HGET', watch, 'by:' .. who) then return false end
if verb == 'look' then
  -- Returns the keys written after that revision, each with its last, nil if the watch has expired meanwhile.
  last()
  return call('ZRANGEBYSCORE', written, '(' .. ARGV[4], '+inf', 'WITHSCORES')
elseif verb == 'still' then
  -- Returns 1, nil if the watch has expired.
  call('HSET', watch, 'on', string.format('%.0f', now() + tonumber(span)) .. ' ' .. who)
  return 1
elseif verb == 'go on' then
  -- Returns 1, nil if another one let the writers go on.
  if string.match(call('HGET', watch, 'on'), ' (.*)$') ~= who then return false end
  call('HSET', watch, 'on', '0')
  return 1
end
-- To end it. Returns 1.
call('HDEL', watch, 'by:' .. who)
local others = tonumber(call('HGET', watch, 'watchers')) - 1
if others > 0 then call('HSET', watch, 'watchers', string.format('%.0f', others)) else call('DEL', watch, written) end
return 1
"""
)


@functools.lru_cache(maxsize=16)
def watching(who: str) -> Script:
    """Return the script of one who takes a snapshot, which no other one has.

    What a server knows of scripts it loses when it ends, and does not tell its replicas. So a server that knows this
    one has been the master since the snapshot was begun: that what was read of it is still there, no key could say.
    """
    return Script(f"{_WATCH}-- {who}\n")


WRITE: Final = Script(
    _COMMON
    + """
-- KEYS  1 revision (a string)   2 index   3 expiries   4 the writer's slot (a string)   5 watch (a hash)
--       6 what was written, for who watches (a sorted set)   7.. the batch's keys
-- ARGV  1 "w", or "r" if no operation writes   2 "1" if an operation may follow from another one, or "0"
--       3 number of checks
--       then a check: key (its place in KEYS), version ("": there, "0": absent), "m" or "", member
--       then an operation: name, key, number of arguments, arguments; the name begins with what the key has to hold:
--       v a value, h a hash, z a sorted set; other names work on any
--       and at the end of all: sequence, or "" without a token; digest of the batch; issued (ms)
-- Returns the replies as RESP text, which is kept for who asks again.

-- Looked up once: each use would look it up again.
local tonumber, type, pcall = tonumber, type, redis.pcall
local match, find, byte, sub, format, concat = string.match, string.find, string.byte, string.sub, string.format,
  table.concat

local last = #ARGV - 3
local sequence, digest, issued = ARGV[last + 1], ARGV[last + 2], ARGV[last + 3]
local clock

local watched = ARGV[1] == 'w' and call('HGET', KEYS[5], 'on')
if watched and watched ~= '0' and now() < tonumber(match(watched, '^%d+')) then
  return redis.error_reply('TRYAGAIN a snapshot is being taken')
end

-- Exactly once

if sequence ~= '' then
  local kept = call('GET', KEYS[4])
  if kept then
    local passed, sum = match(kept, '^(%d+) (%S+) ')
    if passed == sequence then
      if sum == '-' then return {'token', 'void'} end
      if sum ~= digest then return {'token', 'reused'} end
      -- A write, so that a WAIT on this connection waits for the first one too.
      call('PEXPIRE', KEYS[4], TOKEN_MEMORY)
      return sub(kept, #passed + #sum + 3)
    end
    if tonumber(passed) > tonumber(sequence) then return {'token', 'passed'} end
  end
  clock, issued = now(), tonumber(issued)
  if issued + TOKEN_LIFE <= clock then return {'token', 'old'} end
  if issued > clock + TOKEN_AHEAD then return {'token', 'ahead'} end
end

-- Admission

-- kinds: what a key will hold. was: whether it was there. fresh: nothing is left of what it held before the batch.
-- sizes: of a sorted set, as far as it is known.
local kinds, was, fresh, sizes = {}, {}, {}, {}
local function kind(key)
  local reply = call('TYPE', key)
  if type(reply) == 'table' then reply = reply['ok'] end
  kinds[key] = reply
  was[key] = reply ~= 'none'
  return reply
end

local at = 4
for i = 0, tonumber(ARGV[3]) - 1 do
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
  if digits ~= '0' and not find(digits, '^%-?[1-9]%d*$') then return nil end
  local sign = 1
  if sub(digits, 1, 1) == '-' then
    sign = -1
    digits = sub(digits, 2)
  end
  if #digits > 19 then return nil end
  local high = sign * (tonumber(sub(digits, 1, -10)) or 0)
  local low = sign * tonumber(sub(digits, -9))
  if beyond(high, low) then return nil end
  return high, low
end

-- The sum of two integers in decimal, as a number or in decimal; nil and why if there is none.
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
  if high == 0 then return format('%.0f', low) end
  return format('%.0f', high) .. format('%09.0f', math.abs(low))
end

-- Fields and their sums where all were there, as integers of up to 13 digits, as is what is added: the usual case, in
-- which nothing overflows and doubles are exact. Else nil.
local function short(stored, from, middle)
  for i = 1, middle do
    if not stored[i] then return nil end
  end
  local all = ' ' .. concat(stored, ' ') .. ' '
  if find(all, '[^%d ]') or find(all, ' 0%d') or find(all, '  ', 1, true) then return nil end
  local entries = {unpack(ARGV, from, from + middle + middle - 1)}
  for i = 1, middle do
    local old, increment = stored[i], ARGV[from + middle + i - 1]
    if #old > 13 or #increment > 13 then return nil end
    entries[i + i - 1], entries[i + i] = ARGV[from + i - 1], old + increment
  end
  return entries
end

local function payload(key)
  local stored = call('GET', key)
  return stored and sub(stored, find(stored, ' ', 1, true) + 1)
end

-- follows: whether what an operation does may follow from one before it. Then these say what those have made of values
-- and of fields; false is absent. highest: a score that no member that was added exceeds.
local follows = ARGV[2] == '1'
local values, fields, highest = {}, {}, {}
-- Of an operation that counts, by where it stands: what is to be set; of one that counts fields, what they were.
local sums, olds = {}, {}
local first = at
while at <= last do
  local name, key, count = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local from = at + 3
  local held = kinds[key]
  local initial = byte(name)
  local stored
  if held == nil then
    -- What has to be read anyway says what the key holds, too: an error if it is something else.
    local reply
    if initial == 122 then
      reply = pcall('ZCARD', key)
      if type(reply) == 'number' then
        held, sizes[key], was[key] = reply > 0 and 'zset' or 'none', reply, reply > 0
        kinds[key] = held
      end
    elseif name == 'hincrby' and count <= 200 then
      reply = pcall('HMGET', key, unpack(ARGV, from, from + count / 2 - 1))
      if not reply['err'] and reply[1] then
        held, kinds[key], was[key], stored = 'hash', 'hash', true, reply
      end
    end
    held = held or kind(key)
  end
  if held ~= 'none' and ((initial == 104 and held ~= 'hash') or (initial == 122 and held ~= 'zset')
      or (initial == 118 and held ~= 'string')) then
    return {'kind', key, held}
  end
  if name == 'hincrby' then
    local middle = count / 2
    local known
    if follows then
      known = fields[key] or {}
      fields[key] = known
    end
    if not stored then
      stored = {}
      if held ~= 'none' and not fresh[key] then
        for i = 1, middle do stored[i] = call('HGET', key, ARGV[from + i - 1]) end
      end
    end
    local entries = not known and count <= 200 and short(stored, from, middle)
    if not entries then
      entries = {}
      for i = 1, middle do
        local field, total, why = ARGV[from + i - 1], ARGV[from + middle + i - 1], nil
        local old = stored[i]
        if known and known[field] ~= nil then old = known[field] end
        if old then
          total, why = sum(old, total)
          if not total then return {why, key, field} end
        end
        stored[i] = old or '0'
        if known then known[field] = total end
        entries[2 * i - 1], entries[2 * i] = field, total
      end
    end
    sums[at], olds[at] = entries, concat(stored, ' ')
    kinds[key] = 'hash'
  elseif name == 'zadd' then
    if follows then
      local top = highest[key] or 0
      for i = from + 1, from + count - 1, 2 do top = math.max(top, tonumber(ARGV[i])) end
      highest[key] = top
    end
    kinds[key] = 'zset'
  elseif name == 'vincrby' then
    local old = values[key]
    if old == nil and held ~= 'none' and not fresh[key] then old = payload(key) end
    local total, why = sum(old or '0', ARGV[from])
    if not total then return {why, key, ''} end
    sums[at], values[key] = total, total
    kinds[key] = 'string'
  elseif name == 'hset' then
    if follows then
      local known = fields[key] or {}
      fields[key] = known
      for i = from, from + count - 1, 2 do known[ARGV[i]] = ARGV[i + 1] end
    end
    kinds[key] = 'hash'
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
  elseif name == 'hdel' and follows then
    local known = fields[key] or {}
    fields[key] = known
    for i = from, from + count - 1 do known[ARGV[i]] = false end
  end
  at = from + count
end

-- Execution

local revision
if ARGV[1] == 'w' then revision = format('%.0f', call('INCR', KEYS[1])) end

-- alive: whether a key that was written is there. expires: when it will be gone, false is never.
local alive, expires = {}, {}

local function gone(key)
  if call('EXISTS', key) == 0 then alive[key], expires[key] = false, false end
end

-- A command with many arguments, in pieces that Lua's stack takes.
local function pieces(command, key, arguments, from, to)
  if to - from < 2000 then return call(command, key, unpack(arguments, from, to)) end
  local total = 0
  for i = from, to, 2000 do total = total + call(command, key, unpack(arguments, i, math.min(i + 1999, to))) end
  return total
end

-- What is kept and returned: each reply as RESP, without the end of the line.
local kept, size, number = {}, 1, 0
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

at = first
while at <= last do
  local name, key, count = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local from = at + 3
  local to = from + count - 1
  local reply
  if name == 'hincrby' then
    pieces('HSET', key, sums[at], 1, count)
    alive[key] = true
    -- What they were, not what they are: numbers of Lua's are dear to write out, and who asks knows what was added.
    reply = olds[at]
  elseif name == 'zadd' then
    alive[key] = true
    if ARGV[from] == '' then
      reply = pieces('ZADD', key, ARGV, from + 1, to)
    elseif count < 2000 then
      reply = call('ZADD', key, unpack(ARGV, from, to))
    else
      reply = 0
      for i = from + 1, to, 2 do reply = reply + call('ZADD', key, ARGV[from], ARGV[i], ARGV[i + 1]) end
    end
    if sizes[key] then sizes[key] = sizes[key] + reply end
  elseif name == 'ztrim' then
    local surplus = (sizes[key] or call('ZCARD', key)) - tonumber(ARGV[from])
    reply = 0
    if surplus > 0 then
      reply = call('ZREMRANGEBYRANK', key, 0, surplus - 1)
      sizes[key] = nil
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
    sizes[key] = nil
    alive[key] = true
    reply = revision
  elseif name == 'hset' then
    alive[key] = true
    reply = pieces('HSET', key, ARGV, from, to)
  elseif name == 'zappend' then
    alive[key] = true
    local newest = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
    local score, added = math.max(tonumber(newest[2] or '0'), -SCORE_MAX), 0
    for i = from, to do
      score = score + 1
      added = added + call('ZADD', key, format('%.17g', score), ARGV[i])
    end
    if sizes[key] then sizes[key] = sizes[key] + added end
    reply = format('%.17g', score)
  elseif name == 'vincrby' then
    call('SET', key, revision .. ' ' .. sums[at], 'KEEPTTL')
    alive[key] = true
    reply = sums[at]
  elseif name == 'del' then
    reply = call('DEL', key)
    sizes[key] = nil
    alive[key], expires[key] = false, false
  elseif name == 'hdel' then
    reply = pieces('HDEL', key, ARGV, from, to)
    if reply > 0 then gone(key) end
  elseif name == 'zrem' then
    reply = pieces('ZREM', key, ARGV, from, to)
    sizes[key] = nil
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
  elseif name == 'vget' then
    reply = call('GET', key)
  elseif name == 'vversion' then
    reply = version(key)
  elseif name == 'ttl' then
    reply = call('PTTL', key)
  else
    -- What only reads is called as its command.
    reply = call(name, key, unpack(ARGV, from, to))
  end
  number = number + 1
  keep(reply)
  at = to + 1
end

-- The index of keys

-- A key has its namespace's tag and a colon before its name; the index has the tag and `#keys`.
local skip = #KEYS[2] - 3
if watched then
  for key in pairs(was) do call('ZADD', KEYS[6], revision, key) end
end
for key, before in pairs(was) do
  local lives, name = alive[key], nil
  if lives == nil then lives = before end
  local ends = expires[key]
  if lives and not before then
    name = sub(key, skip)
    -- It may still be there from a life that expired.
    if call('ZADD', KEYS[2], 0, name) == 0 and not ends then ends = false end
  elseif not lives then
    ends = nil
    if before then
      name = sub(key, skip)
      call('ZREM', KEYS[2], name)
      ends = false
    end
  end
  if ends then
    clock = clock or now()
    call('ZADD', KEYS[3], format('%.0f', clock + ends), name or sub(key, skip))
  elseif ends == false then
    call('ZREM', KEYS[3], name or sub(key, skip))
  end
end
if clock and next(expires) then
  local over = call('ZRANGEBYSCORE', KEYS[3], '-inf', format('%.0f', clock - 1000), 'LIMIT', 0, 1000)
  if #over > 0 then
    call('ZREM', KEYS[2], unpack(over))
    call('ZREM', KEYS[3], unpack(over))
  end
end

-- The memory of the writer

kept[1] = '*' .. number
kept[size + 1] = ''
local text = concat(kept, '\\r\\n')
if sequence ~= '' then call('SET', KEYS[4], sequence .. ' ' .. digest .. ' ' .. text, 'PX', TOKEN_MEMORY) end
return text
"""
)
