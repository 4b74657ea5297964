-- ops.GiveBack.  KEYS: the hashes, then the token.  ARGV: clock, demands, the outcome of the Take, fields.
-- Without an outcome, whatever was decided under the token is undone, and may not happen later either.
local outcome = ARGV[3]
if outcome == '' then
  outcome = redis.call('GET', KEYS[#KEYS])
  redis.call('SET', KEYS[#KEYS], 'x', 'PX', REMEMBERED)
  if not outcome or outcome == 'x' then return 0 end
end
local at, refused = unpack_('<i8i8', outcome)
if refused == 1 then return 0 end
local changes = {}
for i, demand in ipairs(demands_of(ARGV[2], 4)) do
  local ttl = unpack_('<i8', outcome, 17 + 32 * (i - 1))
  if demand.state and demand.cost > 0 and at <= now and now < at + ttl then
    local left = give_back[demand.kind](demand.state, at, demand.cost, demand.a, demand.b, demand.c)
    if left then
      local life = 0
      if left ~= '' then
        demand.state = left
        life = select(2, taking(demand, 0))
      end
      changes[#changes + 1] = { demand.hash, demand.field, life > 0 and left, life }
    end
  end
end
write(changes)
return 1
