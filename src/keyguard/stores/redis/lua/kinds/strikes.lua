-- The limit of keyguard.rates.strikes, with the same names and the same meaning: check_store compares them.

-- The latest ban and the strikes of an entry as of now: whether time was set back, when the ban began and ends, how many
-- there were, the strikes as they are written, their sum, and the moments of the first and the last.
local function strikes_of(entry, period, longest)
  if not entry then return false, 0, 0, 0, '', 0, nil, nil end
  local since, ends, number = unpack_('<I8I8I4', entry, 9)
  local newest = #entry > 28 and unpack_('<I8', entry, #entry - 11) or 0
  local back = max(0, max(since, newest) - now)
  ends = ends - since
  since = max(0, since - back)
  ends = since + ends
  if ends + longest <= now then since, ends, number = 0, 0, 0 end
  local strikes, total, first, last = {}, 0, nil, nil
  for at = 29, #entry, 12 do
    local time, count = unpack_('<I8I4', entry, at)
    time = max(0, time - back)
    if time > now - period then
      strikes[#strikes + 1] = pack('<I8I4', time, count)
      total, first, last = total + count, first or time, time
    end
  end
  return back > 0, since, ends, number, table.concat(strikes), total, first, last
end

local function life_of(ends, number, last, period, longest)
  return max(number > 0 and ends + longest - now or 0, last and last + period - now or 0)
end

local function take_strikes(entry, _, quota, period, _, longest)
  local moved, since, ends, number, strikes, total, first, last = strikes_of(entry, period, longest)
  local life = life_of(ends, number, last, period, longest)
  local kept = moved and pack('<I8I8I8I4', now + life, since, ends, number) .. strikes or nil
  if now < ends then return kept, life, 0, ends - now, ends - now end
  return kept, life, max(0, quota - total), first and first + period - now or 0, 0
end

local function charge_strikes(entry, cost, quota, period, length, longest)
  local _, since, ends, number, strikes, total, _, last = strikes_of(entry, period, longest)
  if now >= ends then
    local count, width = min(cost, quota + 1), quota > 32 and max(1, floor(period / 32)) or 1
    total = total + count
    if total > quota then
      since, ends = now, now + min(longest, length * 2 ^ min(number, 63))
      number, strikes, last = min(number + 1, 4294967295), '', nil
    elseif last and now - last < width then
      count = count + unpack_('<I4', strikes, #strikes - 3)
      strikes = strikes:sub(1, -13) .. pack('<I8I4', last, count)
    else
      strikes, last = strikes .. pack('<I8I4', now, count), now
    end
  end
  local life = life_of(ends, number, last, period, longest)
  return pack('<I8I8I8I4', now + life, since, ends, number) .. strikes, life
end

kinds[8] = {  -- Strikes: quota, period, length of a ban, the longest one
  take = take_strikes,
  back = function() return nil end,
  over = charge_strikes,
  expires = function(at) return at end,
}
