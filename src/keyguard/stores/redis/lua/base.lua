-- All scripts begin with this. Numbers are doubles, exact up to 2^53. An *entry* is what is stored: eight bytes of expiry
-- (microseconds, 0 for never) and the value.

local floor, max, min = math.floor, math.max, math.min
local pack, unpack_ = struct.pack, struct.unpack

-- The server's time, or the one that a test hands in: then nothing may expire by itself while the test goes on.
local now, slack
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now, slack = time[1] * 1000000 + time[2], 1000
else
  now, slack = tonumber(ARGV[1]), 3600000
end

local function living(entry)
  if not entry then return nil end
  local expiry = unpack_('<I8', entry)
  return (expiry == 0 or expiry > now) and entry or nil
end

local function write(lists, lives)
  for hash, list in pairs(lists) do
    redis.call('HSET', KEYS[hash], unpack(list))
    local life = floor(lives[hash] / 1000) + slack
    -- an eighth longer than needed, so that it need not be told again at each request
    if redis.call('PTTL', KEYS[hash]) < life then redis.call('PEXPIRE', KEYS[hash], life + floor(life / 8)) end
  end
end
