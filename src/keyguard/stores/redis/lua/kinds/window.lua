-- The limits of keyguard.rates.window, with the same names and the same meaning: check_store compares them.

local SLICES = 32

-- An entry of the other kind of window: a log as slices, slices as a log. It happens after a limit was edited, and only
-- when units are taken: all that is counted has room then.
local function converted(entry, period)
  local width = -floor(-period / SLICES)
  if #entry % 2 == 1 then
    local expiry, _, slice, _, count = unpack_('<I8c1I8I8I4', entry)
    local counts, times = { count }, {}
    for at = #entry - 3, 30, -4 do counts[#counts + 1] = unpack_('<I4', entry, at) end
    for i = #counts, 1, -1 do
      local time = min(now, (slice - i + 2 + SLICES) * width - period)
      times[#times + 1] = pack('<I8', time):rep(counts[i])
    end
    return pack('<I8', expiry) .. table.concat(times)
  end
  local newest, total, counts, older = 0, 0, {}, {}
  for at = 9, #entry, 8 do
    local time = unpack_('<I8', entry, at)
    if time > now - period then newest = max(newest, floor(time / width)) end
  end
  for i = 0, SLICES do counts[i] = 0 end
  for at = 9, #entry, 8 do
    local time = unpack_('<I8', entry, at)
    local place = SLICES - (newest - floor(time / width))
    if place >= 0 and time > now - period then
      counts[place] = counts[place] + 1
      total = total + 1
    end
  end
  for i = 0, SLICES - 1 do older[i + 1] = pack('<I4', counts[i]) end
  older = table.concat(older)
  local first = older:find('[^%z]')
  older = first and older:sub(first - (first - 1) % 4) or ''
  return entry:sub(1, 8) .. pack('<c1I8I8I4', 'S', newest, total, counts[SLICES]) .. older
end

-- An entry of the other kind of window is asked as it is, and converted when units are taken.

local take_window

local function take_log(entry, cost, quota, period)
  local length, moved = 0, false
  if entry then
    if #entry % 8 ~= 0 then
      local new, ttl, remaining, reset, wait = take_window(entry, cost, quota, -floor(-period / SLICES), period)
      if wait ~= 0 or cost == 0 then return new, ttl, remaining, reset, wait end
      new = pack('<I8', now + period) .. converted(new, period):sub(9)
      return new, period, remaining, unpack_('<I8', new, 9) + period - now, 0
    end
    length = #entry / 8 - 1
    local newest = length > 0 and unpack_('<I8', entry, #entry - 7) or 0
    if newest > now then
      local times = { pack('<I8', now + period) }
      for i = 1, length do times[i + 1] = pack('<I8', max(0, unpack_('<I8', entry, 8 * i + 1) - newest + now)) end
      entry, moved = table.concat(times), true
    end
  end
  local expired, oldest = 0, nil
  while expired < length do
    oldest = unpack_('<I8', entry, 8 * expired + 9)
    if oldest > now - period then break end
    expired = expired + 1
  end
  local used = length - expired
  local reset = used > 0 and oldest + period - now or 0
  if cost == 0 then return moved and entry or nil, period, max(0, quota - used), reset, 0 end
  if used + cost > quota then
    local wait = -1
    if cost <= quota then wait = unpack_('<I8', entry, 8 * (length + cost - quota) + 1) + period - now end
    return moved and entry or nil, period, max(0, quota - used), reset, wait
  end
  local taken = pack('<I8', now)
  if cost > 1 then taken = taken:rep(cost) end
  if used == 0 then return pack('<I8', now + period) .. taken, period, quota - cost, period, 0 end
  return pack('<I8', now + period) .. entry:sub(8 * expired + 9) .. taken, period, quota - used - cost, reset, 0
end

-- The slices of an entry as of now: whether time was set back, the sum of all counts, the newest, and the older ones.
local function slices_of(entry, here)
  local _, _, newest, total, count = unpack_('<I8c1I8I8I4', entry)
  if newest >= here then return newest > here, total, count, entry:sub(30) end
  if here - newest > SLICES then return false, 0, 0, '' end
  local older = entry:sub(30) .. pack('<I4', count) .. ('\0'):rep(4 * (here - newest - 1))
  local beyond = max(0, #older - 4 * SLICES)
  for at = 1, beyond, 4 do total = total - unpack_('<I4', older, at) end
  local first = older:find('[^%z]', beyond + 1)
  return false, total, 0, first and older:sub(first - (first - 1) % 4) or ''
end

take_window = function(entry, cost, quota, width, period)
  local here = floor(now / width)
  local until_expiry = (here + SLICES + 1) * width - now
  local moved, total, count, older = false, 0, 0, ''
  if entry then
    if #entry % 2 == 0 then
      local new, ttl, remaining, reset = take_log(entry, 0, quota, period)
      if cost == 0 then return new, ttl, remaining, reset, 0 end
      if cost > remaining then return take_log(entry, cost, quota, period) end
      entry = converted(new or entry, period)
    end
    moved, total, count, older = slices_of(entry, here)
  end
  local spent = total + cost
  local reset = until_expiry - #older / 4 * width
  if spent <= quota and cost > 0 then
    local new = pack('<I8c1I8I8I4', now + until_expiry, 'S', here, spent, count + cost)
    return older == '' and new or new .. older, until_expiry, quota - spent, reset, 0
  end
  local kept = moved and pack('<I8c1I8I8I4', now + until_expiry, 'S', here, total, count) .. older or nil
  if total == 0 then reset = 0 end
  local wait = 0
  if cost > quota then
    wait = -1
  elseif spent > quota and cost > 0 then
    -- how many slices are younger than the one with which the oldest units over the quota have all expired
    local over, younger = spent - quota, #older / 4
    for at = 1, #older, 4 do
      over = over - unpack_('<I4', older, at)
      if over <= 0 then break end
      younger = younger - 1
    end
    wait = until_expiry - younger * width
  end
  return kept, until_expiry, max(0, quota - total), reset, wait
end

local function charge_window(entry, cost, quota, width, period)
  local here, total, count, older = floor(now / width), 0, 0, ''
  local until_expiry = (here + SLICES + 1) * width - now
  if entry then
    if #entry % 2 == 0 then entry = converted(take_log(entry, 0, quota, period) or entry, period) end
    local _
    _, total, count, older = slices_of(entry, here)
  end
  local more = min(cost, max(0, quota - count))
  return pack('<I8c1I8I8I4', now + until_expiry, 'S', here, total + more, count + more) .. older, until_expiry
end

local function charge_log(entry, cost, quota, period)
  if entry and #entry % 8 ~= 0 then return charge_window(entry, cost, quota, -floor(-period / SLICES), period) end
  if entry then entry = take_log(entry, 0, quota, period) or entry end
  local times = (entry and entry:sub(9) or '') .. pack('<I8', now):rep(min(cost, quota))
  return pack('<I8', now + period) .. times:sub(-8 * quota), period
end

local back_log

local function back_window(entry, at, cost, quota, width, period)
  if #entry % 2 == 0 then return back_log(entry, at, cost, quota, period) end
  local expiry, _, newest, total, count = unpack_('<I8c1I8I8I4', entry)
  local older, back = entry:sub(30), newest - floor(at / width)
  local found
  if back == 0 then
    found = min(cost, count)
    count = count - found
  else
    local place = #older - 4 * back + 1
    if back < 0 or place < 1 then return nil end
    local there = unpack_('<I4', older, place)
    found = min(cost, there)
    older = older:sub(1, place - 1) .. pack('<I4', there - found) .. older:sub(place + 4)
  end
  if found == 0 then return nil end
  local first = older:find('[^%z]')
  older = first and older:sub(first - (first - 1) % 4) or ''
  return pack('<I8c1I8I8I4', expiry, 'S', newest, total - found, count) .. older
end

back_log = function(entry, at, cost, quota, period)
  if #entry % 8 ~= 0 then return back_window(entry, at, cost, quota, -floor(-period / SLICES)) end
  local wanted, kept, found = pack('<I8', at), {}, 0
  for place = 9, #entry, 8 do
    local time = entry:sub(place, place + 7)
    if time == wanted and found < cost then found = found + 1 else kept[#kept + 1] = time end
  end
  return found > 0 and entry:sub(1, 8) .. table.concat(kept) or nil
end

kinds[1] = {  -- WindowLog: quota, period
  take = take_log,
  back = back_log,
  over = charge_log,
  expires = function(at, _, _, period) return at + period end,
}
kinds[2] = {  -- WindowSlices: quota, width of a slice, period
  take = take_window,
  back = back_window,
  over = charge_window,
  expires = function(at, _, _, width) return (floor(at / width) + SLICES + 1) * width end,
}
