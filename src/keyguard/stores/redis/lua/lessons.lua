-- What is learnt from reports: keyguard.learnt.lessons, with the same meaning.
-- report: its candidate, cause, scope, wait (-1 for none), seen, dimension (nothing for none), costs, spent (nothing for
-- none: else the units, and which of them count), grant: moment, start, number, key, whether it is a probe, booked.
-- seen: unit, period, limit (0 for none), remaining and reset (-1 for none).

local PUT_OFF = 16
local NUMBER = { exhausted = 1, quota = 2, ramp = 3, billing = 4, invalid = 5, unsupported = 6 }

local function give_back(m, units, at)
  if is_window(m) then
    if at >= m.when - m.period then m.used = max(0, m.used - units) end
  elseif not has(m.flags, LEARNT) then
    m.when = max(0, m.when - span(m, units))
  end
  m.paced = max(0, m.paced - floor(span(m, units) * EVEN / pace_at(m)))
end

local function put_off(m, units)
  local lately = has(m.flags, PUT_OFF) and now - m.set_at < 120 * SECOND
  if has(m.flags, LEARNT) or lately or pace_at(m) < EVEN then return false end
  m.flags, m.pace, m.cap, m.set_at = with(m.flags, PUT_OFF), pace_at(m), cap_at(m), now
  m.when = max(m.when, now) + span(m, units)
  return true
end

local function slow_meter(m)
  m.pace = max(50, floor(pace_at(m) * 7 / 10))
  m.cap, m.set_at = cap_at(m), now
end

local function cap_burst(m, burst)
  local known, pace = cap_at(m), pace_at(m)
  m.set_at = now
  if known == 1 then
    m.cap, m.pace = 1, max(50, floor(pace * 4 / 5))
    return
  end
  m.pace = max(pace, 5 * EVEN / 4)
  local by_pace = floor(floor(m.limit * m.pace / EVEN) / max(1, floor(m.period / SECOND)))
  local on_top = floor(burst * 4 / 5) - by_pace
  m.cap = max(1, known > 0 and min(floor(known / 2), on_top) or min(m.limit - 1, max(2, on_top)))
end

-- How many units the provider may have got at once.
local function burst_of(group, unit)
  local each = max(1, floor(group.booked[unit + 1] / max(1, group.number)))
  return min(max(in_flight(group), group.lately + group.before) * each, MOST_UNITS)
end

-- How many units a minute were booked lately.
local function had(group, unit)
  local n = group.notes
  local at, number = n[1], n[2]
  if n[3] > 0 then at, number = n[3], n[4] end
  local each = max(1, floor(group.booked[unit + 1] / max(1, group.number)))
  local rate = floor((group.number - number) * 60 * SECOND / max(SECOND, now - at))
  return max(1, min(rate * each, MOST_UNITS))
end

local function settle(group, report)
  local spent = report[8]
  if not spent[1] then return end
  for _, m in ipairs(group.meters) do
    local place = m.unit + 1
    if not has(m.flags, TOLD) and spent[2][place] then
      local booked, units = report[7][place], spent[1][place]
      if units > booked then
        book_units(m, units - booked, now)
      elseif booked > units and units > 0 then
        give_back(m, booked - units, report[9][1])
      end
    end
  end
end

-- The blocks that may stand in the way of a report's request.
local function blocks_of(group, report)
  local found = { group.block }
  for _, place in ipairs({ report[1][5], report[9][4] }) do
    found[#found + 1] = mark(place)
  end
  return found
end

local function undo(group, report)
  local grant, costs = report[9], report[7]
  if grant[3] > 0 then
    for place, units in ipairs(costs) do group.booked[place] = max(0, group.booked[place] - units) end
    for _, m in ipairs(group.meters) do
      if costs[m.unit + 1] > 0 then give_back(m, costs[m.unit + 1], grant[1]) end
    end
  end
  if grant[5] then
    for _, block in ipairs(blocks_of(group, report)) do
      if block.cause > 0 and block.since <= grant[1] then block.probe, marks.changed = min(block.probe, now), true end
    end
  end
end

-- What the fields tell -----------------------------------------------------------------------------------------------

local function correct_bucket(m, left, since, passed, sent, new)
  local full = sent + span(m, m.limit - left)
  if since > m.limit and not new then return end
  local low, high = full + span(m, max(0, since - passed)), max(full, now) + span(m, since + passed + 1)
  if new and m.limit == m.told then
    m.when = full + span(m, since + passed)
  elseif m.when < low then
    m.when = low
  elseif m.when > high and m.limit == m.told then
    m.when = high
  end
end

local function correct_window(m, left, since, passed, sent, reset, new)
  local used, half = m.limit - left, floor(m.period / 2)
  if reset >= 0 then
    local ending = sent + reset
    local late = ending + min(now - sent, SECOND / 4)
    if new or ending - m.when > half then
      m.when, m.used = late, used + since
    elseif m.when - ending > half then
      return
    else
      m.when = min(max(m.when, ending), late)
    end
  end
  local low, high = used + max(0, since - passed), used + since + passed
  if m.used < low then
    m.used = low
  elseif m.used > high and m.limit == m.told then
    m.used = high
  end
end

-- Find out whether it is a window: at least and at most so many units were counted. Returns whether it is another kind
-- than before.
local function tell_kind(m, ending, least, most)
  if m.end_then == 0 or most < m.booked_then then
    m.end_then, m.booked_then = ending, most
    return false
  end
  local grown, moved = span(m, max(0, least - m.booked_then)), ending - m.end_then
  if grown < 3 * SECOND then return false end
  local window = moved >= -SECOND and 3 * moved < grown
  local bucket = 3 * moved >= 2 * grown and moved < floor(m.period / 2)
  if not window then m.end_then, m.booked_then = ending, most end
  if window == is_window(m) or not (window or bucket) then return false end
  m.flags = window and m.flags + WINDOW or m.flags - WINDOW
  return true
end

local function correct(group, grant, seen)
  local unit, period, limit, remaining, reset = unpack(seen)
  local m = meter_in(group, unit, period)
  if limit == 0 then limit = m and m.told or 0 end
  if limit == 0 then return end
  limit = min(limit, MOST_UNITS)
  local new = not m or not has(m.flags, TOLD) or m.told ~= limit
  if not m then
    m = add_meter(group, unit, period, TOLD, limit)
    if not m then return end
  end
  if new then
    m.limit = has(m.flags, CONFIGURED) and min(limit, m.limit) or limit
    if has(m.flags, LEARNT) then m.flags, m.pace = m.flags - LEARNT, EVEN end
    m.flags, m.told = with(m.flags, TOLD), limit
  end
  if remaining < 0 then return end
  local booked, known = group.booked[unit + 1], #grant[6] == 4
  local since = known and max(0, booked - grant[6][unit + 1]) or 0
  local passed = in_flight(group) * ceil(booked / max(1, group.number))
  local sent = min(now, grant[1] + grant[2])
  if reset > LONGEST then reset = -1 end
  if reset >= 0 and #grant[6] > 0 and m.limit == m.told then
    new = tell_kind(m, sent + reset, grant[6][unit + 1] - passed, booked) or new
  end
  local left = min(remaining, m.limit)
  if is_window(m) then
    correct_window(m, left, since, passed, sent, reset, new)
  else
    correct_bucket(m, left, since, passed, sent, new)
  end
end

-- Refusals -----------------------------------------------------------------------------------------------------------

-- Begin to learn a limit that is told nowhere.
local function begin(group, unit, period)
  if not unit or period > HOUR then unit, period = 0, 60 * SECOND end
  local m = add_meter(group, unit, period, LEARNT, had(group, unit))
  if not m then return nil end
  m.limit = min(MOST_UNITS, max(1, floor(m.limit * max(1, floor(period / SECOND)) / 60)))
  m.set_at, m.paced = now, now
  return m
end

local function hidden_window(group)
  local least
  for pass = 1, 2 do
    for _, m in ipairs(group.meters) do
      if (pass == 2 or m.unit == 0) and (not least or m.period < least.period) then least = m end
    end
    if least then break end
  end
  if least then cap_burst(least, burst_of(group, least.unit)) end
end

local function slow_down(group, report, short, hidden)
  if hidden then return hidden_window(group) end
  if #short > 0 then
    for _, seen in ipairs(short) do
      local m = meter_in(group, seen[1], seen[2])
      if m and not is_window(m) and m.period <= HOUR and not put_off(m, report[7][m.unit + 1] - seen[4]) then
        slow_meter(m)
      end
    end
    return
  end
  local unit, period = report[6][1], report[6][2]
  local m, slowed = unit and meter_in(group, unit, period), {}
  if m then
    slowed[1] = m
  else
    for _, one in ipairs(group.meters) do
      if one.period <= HOUR and not is_window(one) then slowed[#slowed + 1] = one end
    end
  end
  if #slowed == 0 then slowed[1] = begin(group, unit, period) end
  for _, one in ipairs(slowed) do
    if has(one.flags, LEARNT) then
      local was = had(group, one.unit)
      if floor(one.limit * pace_at(one) / EVEN) > 2 * was then one.limit, one.pace, one.set_at = was, EVEN, now end
    end
    slow_meter(one)
  end
end

-- When a block is over, and when a probe is due.
local function ends(cause, wait, tries)
  local doubled = tries > 0 and 2 ^ (tries - 1) or 1
  if cause == INVALID then return now + FAR, now + (tries <= 1 and HOUR or FAR) end
  if wait >= 0 then
    if cause == QUOTA then wait = max(wait, min(wait * doubled, HOUR)) end
    local until_ = now + min(wait, 31 * DAY)
    return until_, min(until_, now + HOUR)
  end
  if cause == BILLING or cause == QUOTA then return now + FAR, now + min(60 * SECOND * doubled, HOUR) end
  local until_ = now + min((cause == UNSUPPORTED and 600 or 5) * SECOND * doubled, 600 * SECOND)
  return until_, until_
end

local function close(block, cause, wait, at, probe)
  local shut = block.until_ > now and not probe
  if not (shut and at <= block.since) then block.tries = min(block.tries + 1, 12) end
  local until_, due = ends(cause, wait, block.tries)
  if shut and until_ < block.until_ then return end
  block.cause, block.since, block.until_, block.probe = cause, now, until_, due
end

local function closed_by(group, report, cause)
  local scope = report[3]
  if scope == 'key' and (cause == INVALID or cause == BILLING or cause == UNSUPPORTED) then
    return made_mark(report[9][4])
  end
  if scope == 'group' and report[1][5] > 0 then return made_mark(report[1][5]) end
  return (scope == 'group' or scope == 'model') and group.block or nil
end

local function refused(group, report, cause)
  local grant, wait, told, short = report[9], report[4], 0, {}
  for _, seen in ipairs(report[5]) do
    if seen[4] >= 0 then
      told = told + 1
      if seen[4] < report[7][seen[1] + 1] then short[#short + 1] = seen end
    end
  end
  local hidden = told > 0 and #short == 0 and cause == EXHAUSTED
  if (cause == EXHAUSTED or cause == RAMP) and grant[3] > 0 and grant[1] > group.slowed then
    group.slowed = now
    slow_down(group, report, short, hidden)
  end
  if cause == EXHAUSTED and wait < 0 then
    for _, seen in ipairs(short) do
      if meter_in(group, seen[1], seen[2]) then return end
    end
    if hidden then wait = SECOND end
  end
  local block = closed_by(group, report, cause)
  if block then close(block, cause, wait, grant[1], grant[5]) end
end

local function learn_from(report)
  local group, cause, grant = group_of(report[1]), report[2], report[9]
  if cause == 'enable' then
    for _, block in ipairs(blocks_of(group, report)) do
      if block.cause > 0 then
        clear(block)
        group.changed, marks.changed = true, true
      end
    end
    return
  end
  group.changed = true
  if cause == 'settled' then return settle(group, report) end
  if grant[3] > 0 then group.answered = min(group.answered + 1, group.number) end
  if cause == 'unsent' then return undo(group, report) end
  if grant[3] > 0 then
    for _, seen in ipairs(report[5]) do correct(group, grant, seen) end
    settle(group, report)
  end
  if cause == 'ok' or cause == 'request' then
    for _, block in ipairs(blocks_of(group, report)) do
      if block.cause > 0 and (grant[5] or grant[1] > block.since) then
        clear(block)
        marks.changed = true
      end
    end
  elseif NUMBER[cause] then
    refused(group, report, NUMBER[cause])
  end
end

for _, report in ipairs(spec.reports) do learn_from(report) end
