-- The limit of keyguard.rates.strikes, with the same names and the same meaning: check_store compares them.

local NO_STRIKES = ('\0'):rep(28)  -- an entry without a ban and strikes

-- The latest ban and the strikes of an entry as of now: whether time was set back, when the ban began and ends, how many
-- there were, the strikes as they are written, their sum, and the moments of the first and the last.
local function strikes_of(entry, period, longest)
  entry = entry or NO_STRIKES
  local since, ends, number = unpack_('<I8I8I4', entry, 9)
  local newest = #entry > 28 and unpack_('<I8', entry, #entry - 11) or 0
  local back = max(since, newest) - now
  local moved = back > 0
  if moved then
    ends = ends - since
    since = max(0, since - back)
    ends = since + ends
  else
    back = 0
  end
  if ends + longest <= now then number = 0 end
  local strikes, total, first, last = {}, 0, nil, nil
  for at = 29, #entry, 12 do
    local time, count = unpack_('<I8I4', entry, at)
    time = max(0, time - back)
    if time > now - period then
      strikes[#strikes + 1] = pack('<I8I4', time, count)
      total, first, last = total + count, first or time, time
    end
  end
  return moved, since, ends, number, table.concat(strikes), total, first, last
end

local function life_of(ends, last, period, longest)
  return max(0, ends + longest - now, last and last + period - now or 0)
end

local function take_strikes(entry, _, quota, period, _, longest)
  local moved, since, ends, number, strikes, total, first, last = strikes_of(entry, period, longest)
  local life = life_of(ends, last, period, longest)
  local kept = moved and pack('<I8I8I8I4', now + life, since, ends, number) .. strikes or nil
  if now < ends then return kept, life, 0, ends - now, ends - now end
  return kept, life, max(0, quota - total), first and first + period - now or 0, 0
end

local function charge_strikes(entry, cost, quota, period, length, longest)
  local _, since, ends, number, strikes, total, _, last = strikes_of(entry, period, longest)
  if now >= ends then
    if total + cost > quota then
      since, ends, number, strikes, last = now, now + min(longest, length * 2 ^ number), number + 1, '', nil
    elseif last == now or (last and quota > 32 and (now - last) * 32 < period) then
      strikes = strikes:sub(1, -5) .. pack('<I4', unpack_('<I4', strikes, #strikes - 3) + cost)
    else
      strikes, last = strikes .. pack('<I8I4', now, cost), now
    end
  end
  local life = life_of(ends, last, period, longest)
  return pack('<I8I8I8I4', now + life, since, ends, number) .. strikes, life
end

kinds[8] = {  -- Strikes: quota, period, length of a ban, the longest one
  take = take_strikes,
  back = function() return nil end,
  over = charge_strikes,
  expires = function(at) return at end,
}
