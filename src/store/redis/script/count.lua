-- Makes corrections, and after them all charges of a request or none.
--
-- KEYS      Whose they are. Each is a hash, with a field for each policy, and one for when it expires.
-- ARGV[1]   Each of them, packed as OPERATION. A field may be named by several corrections, and by one
--           charge after them.
-- ARGV[2]   Tests only: the time, in microseconds.
-- ARGV[3]   Tests only: how many milliseconds longer than needed states are kept.
--
-- Answers with one string: the time, and for each a byte, which is 1 if it fits, and the state as it
-- is then. What a state means to a caller is worked out by who asked. A lease takes as many units as
-- there are, up to a number; how many is told between the two. All times are microseconds.
--
-- Each algorithm counts as its namesake in src/algorithm, where the reasons are. Two things are
-- different here. Numbers are whole and exact below 2^53 only. And the clock may be set back: what
-- was used then stays used, as if it had been used now.
--
-- One server runs this for all replicas, one at a time. So a charge keeps to local variables: it makes
-- few functions, which take as long to make as to run (so those of an algorithm only where it counts),
-- and few tables, which are slow to grow.

local call, pack, parse = redis.call, struct.pack, struct.unpack

-- The number of the key, the number of the field among those of the key, the field, the algorithm, the
-- action, what it is about, and the quota: its units, window and capacity. Of a correction then what
-- the charge was: its cost, and what was missing in a bucket right after it, as whole units and a rest.
local OPERATION, CORRECTION, OPERATION_SIZE, ACTION = '<I2I2c9BBddddd', '<I2I2c9BBdddddddd', 79, 14
local EXPIRES = 'expires'
local ENFORCED, PEEK, LEASE, GIVE_BACK, TAKE, RESET = 0, 2, 3, 4, 5, 6

-- Of what is answered.
local FITS, REFUSED = '\1', '\0'

-- Times and products are exact below this.
local EXACT = 2 ^ 53
-- Counts end here, so that the sum of two is exact.
local MOST = 2 ^ 52

local now = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- What each key is asked for, and which algorithms count. `arguments` are of this, and of what is
-- written later: five policies have room. The last that is used is at `last`.
local operations, keys, ALGORITHMS = ARGV[1], { nil }, { false, false, false }
for begins = 1, #operations, OPERATION_SIZE do
  local number, place, field, algorithm = parse('<I2I2c9B', operations, begins)
  ALGORITHMS[algorithm] = true
  local key = keys[number]
  if not key then
    local name = KEYS[number]
    key = {
      name = name, expires = 0, texts = false, lasts = 0, last = 0,
      arguments = { name, EXPIRES, nil, nil, nil, nil, nil, nil, nil, nil, nil },
    }
    keys[number] = key
  end
  place = place + 2
  key.arguments[place] = field
  if place > key.last then key.last = place end
end
-- a * b / c, rounded down, and the rest; c is below 2^52. Exact where the result is.
local function divide(a, b, c)
  local product = a * b
  if product < EXACT then
    local rest = product % c
    return (product - rest) / c, rest
  end
  -- As on paper: by the digits of a, in a base so small that its product with a rest is exact.
  local b_rest = b % c
  local base = math.floor(EXACT / c)
  local digit = a % base
  local whole, rest = divide((a - digit) / base, b_rest, c)
  local left, right = rest * base, digit * b_rest
  local left_rest, right_rest = left % c, right % c
  local sum = left_rest + right_rest
  rest = sum % c
  whole = whole * base + (left - left_rest) / c + (right - right_rest) / c + (sum - rest) / c
  return a * ((b - b_rest) / c) + whole, rest
end

local several

-- The algorithms. Each is given the text of a count, or false where there is none, and an action.
-- `first` is how many units must fit, or when those of a correction were charged; `second` how many
-- are charged or corrected. Each answers with whether it fits, the state under the quota of the action
-- as text, for how long the count says more than none would, whether it must be written, how many
-- units were taken, and the text to write where that is another.
--
-- A count is nearly always the state under one quota. What else there is goes to `several`, which
-- comes back with one state at a time.

-- What is missing: whole units, and a rest in parts of which a unit has as many as `window`. Then of
-- when that is, and of what quota.
if ALGORITHMS[1] then
  ALGORITHMS[1] = function(
    text, action, first, second, units, window, capacity, cost, missing, missing_rest
  )
    local whole, rest, changed = 0, 0, false
    if text then
      local at, of_units, of_window, of_capacity
      if #text == 48 then
        whole, rest, at, of_units, of_window, of_capacity = parse('<dddddd', text)
      end
      if
        of_window ~= window or of_units ~= units or of_capacity ~= capacity
        or whole % 1 ~= 0 or whole < 0 or whole > 2 * capacity
        or rest % 1 ~= 0 or rest < 0 or rest >= window
        or at % 1 ~= 0 or at < 0
      then
        return several(
          1, text, action, first, second, units, window, capacity, cost, missing, missing_rest
        )
      end
      if at < now then
        local back, back_rest = divide(now - at, units, window)
        whole, rest = whole - back, rest - back_rest
        if rest < 0 then whole, rest = whole - 1, rest + window end
        if whole < 0 then whole, rest = 0, 0 end
      end
      changed = at > now
    end

    local fits = true
    if action <= LEASE then
      local over = whole + first - capacity
      fits = over < 0 or over == 0 and rest == 0 or first == 0
      if not fits or action == PEEK then
        second = 0
      elseif action == LEASE then
        second = math.min(second, capacity - (rest > 0 and whole + 1 or whole))
      end
    end
    if action == GIVE_BACK then
      changed = true
      -- Of what was missing after the charge, some has come back by itself.
      local back, back_rest = divide(math.max(now - first, 0), units, window)
      missing, missing_rest = missing - back, missing_rest - back_rest
      if missing_rest < 0 then missing, missing_rest = missing - 1, missing_rest + window end
      if missing >= second then missing, missing_rest = second, 0 end
      if missing >= 0 then
        whole, rest = whole - missing, rest - missing_rest
        if rest < 0 then whole, rest = whole - 1, rest + window end
        if whole < 0 then whole, rest = 0, 0 end
      end
    elseif second > 0 then
      -- A debt ends at one more whole bucket; by what is used under other quotas there is none.
      local most = action == TAKE and 2 * capacity or capacity
      changed = true
      if whole < most then
        whole = whole + second
        if whole >= most then whole, rest = most, 0 end
      end
    end
    text = pack('<dddddd', whole, rest, now, units, window, capacity)
    return fits, text, (rest > 0 and whole + 1 or whole) * window / units, changed, second
  end
end

-- Whether an action fits in a window, and how many units it is then about.
local function fit(used, action, first, second, capacity)
  if action > LEASE then return true, second end
  if first > 0 and used + first > capacity then return false, 0 end
  if action == PEEK then return true, 0 end
  if action == LEASE then second = math.max(math.min(second, capacity - used), 0) end
  return true, second
end

-- When the window began, and what was used in it. Then of what quota.
if ALGORITHMS[2] then
  ALGORITHMS[2] = function(text, action, first, second, units, window, capacity)
    -- A window may begin so much later than now, and the clock was not set back: another server has
    -- counted before, whose clock was a little ahead.
    local AHEAD = 2000000
    local start, used, changed = now - now % window, 0, false
    if text then
      local old_start, old_used, of_units, of_window
      if #text == 32 then old_start, old_used, of_units, of_window = parse('<dddd', text) end
      if
        of_window ~= window or of_units ~= capacity
        or old_used % 1 ~= 0 or old_used < 0 or old_used > MOST
        or old_start % 1 ~= 0 or old_start < 0
      then
        return several(2, text, action, first, second, units, window, capacity)
      end
      if old_start >= start then
        used = old_used
        if old_start > now then
          -- A clock was set back; or else it is the window of a clock that is a little ahead.
          if old_start - now <= AHEAD then start = old_start else changed = true end
        end
      end
    end

    local fits
    fits, second = fit(used, action, first, second, capacity)
    if action == GIVE_BACK then
      changed = true
      if first - first % window >= start then
        used = used > second and used - second or 0
      end
    elseif second > 0 then
      changed, used = true, used + second
      if used > MOST then used = MOST end
    end
    text = pack('<dddd', start, used, capacity, window)
    return fits, text, used > 0 and start + window - now or 0, changed, second
  end
end

-- How much is used; of the newest entry of the log when its last use was, and its units; how many
-- entries are before it; and of what quota. Then these: of each, when its last use was and its units.
if ALGORITHMS[3] then
  ALGORITHMS[3] = function(text, action, first, second, units, window, capacity)
    local HEAD, HEAD_SIZE, ENTRY, ENTRY_SIZE = '<dddI2dd', 42, '<dd', 16
    local used, ended, newest, older, changed = 0, 0, 0, '', false
    if text then
      local count, of_units, of_window
      if #text >= HEAD_SIZE then
        used, ended, newest, count, of_units, of_window = parse(HEAD, text)
      end
      if
        of_window ~= window or of_units ~= capacity or #text ~= HEAD_SIZE + count * ENTRY_SIZE
        or used % 1 ~= 0 or newest % 1 ~= 0 or newest < 0 or used < newest or used > MOST
        or ended % 1 ~= 0 or ended < 0
      then
        return several(3, text, action, first, second, units, window, capacity)
      end
      if count > 0 then older = text:sub(HEAD_SIZE + 1) end
      if ended > now then
        -- The clock was set back.
        local moved = {}
        for place = 1, #older, ENTRY_SIZE do
          local last_use, count = parse(ENTRY, older, place)
          moved[#moved + 1] = pack(ENTRY, math.min(last_use, now), count)
        end
        older, ended, changed = table.concat(moved), now, true
      end
      -- What the window has passed over leaves.
      if ended + window <= now then
        used, newest, older = 0, 0, ''
      elseif older ~= '' then
        local place = 1
        while place < #older do
          local last_use, count = parse(ENTRY, older, place)
          -- Entries are looked at when they are the oldest: to look at all takes too long.
          if not (last_use <= ended and count >= 1) then used = -1 end
          if last_use + window > now then break end
          used, place = used - count, place + ENTRY_SIZE
        end
        if used < newest or used % 1 ~= 0 then
          return several(3, text, action, first, second, units, window, capacity)
        end
        older = older:sub(place)
      end
    end

    local fits
    fits, second = fit(used, action, first, second, capacity)
    if action == GIVE_BACK then
      changed = true
      local second = second
      if first + window > now then
        -- From the entry of that moment; then from those before it, where it is not known exactly.
        local place = 1
        while place < #older and parse(ENTRY, older, place) < first do place = place + ENTRY_SIZE end
        if place > #older then
          local given = math.min(newest, second)
          newest, used, second = newest - given, used - given, second - given
          place = place - ENTRY_SIZE
        end
        local later = older:sub(place + ENTRY_SIZE)
        while place > 0 do
          local last_use, count = parse(ENTRY, older, place)
          local given = math.min(count, second)
          used, second = used - given, second - given
          if count > given then later = pack(ENTRY, last_use, count - given) .. later end
          place = place - ENTRY_SIZE
        end
        older = later
        if newest == 0 and older ~= '' then
          ended, newest = parse(ENTRY, older, #older - ENTRY_SIZE + 1)
          older = older:sub(1, -ENTRY_SIZE - 1)
        end
      end
    elseif second > 0 and used < MOST then
      if used + second > MOST then second = MOST - used end
      -- Uses within a 60th of the window share an entry. The number of such a step may not be exact;
      -- how far `now` is in it is.
      if newest > 0 then
        local _, rest = divide(now, 60, window)
        if (now - ended) * 60 > rest then
          older, newest = older .. pack(ENTRY, ended, newest), 0
        end
      end
      used, ended, newest, changed = used + second, now, newest + second, true
    end
    text = pack(HEAD, used, ended, newest, #older / ENTRY_SIZE, capacity, window)
    if older ~= '' then text = text .. older end
    return fits, text, newest > 0 and ended + window - now or 0, changed, second
  end
end

-- A count under several quotas, or under another than that of the action: the state of each, the one
-- that was written last first. Each counts every use of the key. A quota that is not among them
-- begins with what the first has, and where there are too many, drops one that is over, or else the
-- one that remembers for the shortest time; of several, the smallest, and of these the last.
--
-- A text that cannot be read is no count of ours: something was used, and it is not known how much.
-- So it is a key that has used all; that is written as any count is, and comes back as its quota does.
function several(
  number, text, action, first, second, units, window, capacity, cost, missing, missing_rest
)
  local PEEK, GIVE_BACK, TAKE, SHARE, QUOTAS, MOST, EXACT = 2, 4, 5, 7, 4, 2 ^ 52, 2 ^ 53
  local count, states, changed, says = ALGORITHMS[number], {}, false, false

  -- Whether these are whole numbers that can be counted with.
  local function are_whole(...)
    for place = 1, select('#', ...) do
      local number = select(place, ...)
      if number % 1 ~= 0 or number < 0 or number > EXACT then return false end
    end
    return true
  end

  -- The state that begins at a place: where it ends, and its quota.
  local function read(begins)
    local rest = #text - begins + 1
    if number == 1 and rest >= 48 then
      local whole, part, at, units, window, capacity = parse('<dddddd', text, begins)
      local is_one = are_whole(whole, part, at, units, window, capacity)
      if is_one and whole <= 2 * capacity and part < window then
        return begins + 48, units, window, capacity
      end
    elseif number == 2 and rest >= 32 then
      local start, used, units, window = parse('<dddd', text, begins)
      if are_whole(start, used, units, window) and used <= MOST then
        return begins + 32, units, window, units
      end
    elseif number == 3 and rest >= 42 then
      local used, ended, newest, older, units, window = parse('<dddI2dd', text, begins)
      local is_one = are_whole(used, ended, newest, units, window)
      if not is_one or rest < 42 + older * 16 then return end
      local sum, before, last_use, count = newest, 0
      for place = begins + 42, begins + 41 + older * 16, 16 do
        last_use, count = parse('<dd', text, place)
        if not are_whole(last_use, count) or last_use < before or count < 1 then return end
        sum, before = sum + count, last_use
      end
      if sum == used and used <= MOST and before <= ended then
        return begins + 42 + older * 16, units, window, units
      end
    end
  end

  local begins, is_read = 1, text ~= ''
  while begins <= #text do
    local ends, of_units, of_window, of_capacity = read(begins)
    is_read = ends and of_window >= 1 and of_window < MOST and #states < QUOTAS
    if number == 1 and is_read then is_read = of_units >= 1 end
    if not is_read then break end
    -- As it is now.
    local _, state, lasts, was_set_back = count(
      text:sub(begins, ends - 1), PEEK, 0, 0, of_units, of_window, of_capacity
    )
    local longest = lasts > 0 and of_window or 0
    if number == 1 and lasts > 0 and of_capacity ~= of_units then
      longest = math.ceil(of_window * 1000 * of_capacity / of_units) / 1000
    end
    states[#states + 1] = { state, of_units, of_window, of_capacity, longest }
    says, changed, begins = says or lasts > 0, changed or was_set_back, ends
  end
  if not is_read then
    local _, spent = count(false, TAKE, 0, capacity, units, window, capacity)
    states, changed, says = { { spent, units, window, capacity } }, true, true
  end
  if not says then
    -- It is as good as none.
    return count(
      false, action, first, second, units, window, capacity, cost, missing, missing_rest
    )
  end

  local own
  for place = 1, #states do
    local _, of_units, of_window, of_capacity = unpack(states[place])
    if of_units == units and of_window == window and of_capacity == capacity then
      own = table.remove(states, place)[1]
      break
    end
  end
  if not own then
    changed = true
    local state = states[1][1]
    if number == 1 then
      -- What is missing, in parts of the new quota. Where one has to go, the first may be a bucket that
      -- was too small to count all: then it is the most that any says.
      local whole, parts = 0, 0
      for place = 1, #states == QUOTAS and QUOTAS or 1 do
        local of_whole, rest = parse('<dd', states[place][1])
        local of_parts, left = divide(rest, window, states[place][3])
        if left > 0 then of_parts = of_parts + 1 end
        if of_parts == window then of_whole, of_parts = of_whole + 1, 0 end
        if of_whole > whole or of_whole == whole and of_parts > parts then
          whole, parts = of_whole, of_parts
        end
      end
      if whole >= capacity then whole, parts = capacity, 0 end
      own = pack('<dddddd', whole, parts, now, units, window, capacity)
    elseif number == 2 then
      local _, used = parse('<dd', state)
      own = pack('<dddd', now - now % window, used, capacity, window)
    else
      -- The entries that its window still covers, in its steps.
      local used, ended, newest, older = 0, 0, 0, ''
      local function add(last_use, count)
        if count == 0 or last_use + window <= now then return end
        local _, rest = divide(last_use, 60, window)
        if newest > 0 and (last_use - ended) * 60 > rest then
          older, newest = older .. pack('<dd', ended, newest), 0
        end
        used, ended, newest = used + count, last_use, newest + count
      end
      for place = 43, #state, 16 do add(parse('<dd', state, place)) end
      add(parse('<dd', state, 9))
      own = pack('<dddI2dd', used, ended, newest, #older / 16, capacity, window) .. older
    end
    local dropped = #states
    for place = dropped - 1, 1, -1 do
      local this, that = states[place], states[dropped]
      if this[5] < that[5] or this[5] == that[5] and this[5] > 0 and this[4] < that[4] then
        dropped = place
      end
    end
    if #states == QUOTAS then table.remove(states, dropped) end
  end

  local fits, is_changed, taken, lasts
  fits, own, lasts, is_changed, taken = count(
    own, action, first, second, units, window, capacity, cost, missing, missing_rest
  )
  local texts = { own }
  for place = 1, #states do
    local state, of_units, of_window, of_capacity = unpack(states[place])
    local others, used = action == GIVE_BACK and GIVE_BACK or SHARE, taken
    if others == GIVE_BACK and number == 1 then
      -- Where a bucket may have been empty then, it has not counted the use, or only in part.
      local whole, rest = parse('<dd', state)
      local back, back_rest = divide(math.max(now - first, 0), of_units, of_window)
      if rest + back_rest >= of_window then whole = whole + 1 end
      if whole + back >= of_capacity then others, used = SHARE, 0 end
    end
    local _, text, of_lasts = count(
      state, others, first, used, of_units, of_window, of_capacity, cost, cost, 0
    )
    texts[#texts + 1], lasts = text, math.max(lasts, of_lasts)
  end
  return fits, own, lasts, changed or is_changed, taken, table.concat(texts)
end

for number = 1, #keys do
  local key = keys[number]
  local texts = redis.pcall('HMGET', unpack(key.arguments, 1, key.last))
  if texts.err then
    if texts.err:sub(1, 9) ~= 'WRONGTYPE' then return texts end
    -- It is no hash, and not ours: no count in it can be read.
    for place = 2, key.last do texts[place] = '' end
  end
  local expires = tonumber(texts[1]) or 0
  key.texts, key.expires, key.last = texts, expires < EXACT and expires or 0, 1
end

-- Writes fields of a key, each with its text: the first `last` of `arguments`. A key is kept a quarter
-- longer than it says something, so that the next request need not say again how long; and it never
-- is without a time to live. That is counted in milliseconds from the one that has begun, and perhaps
-- from the one before: two more are sure to be enough.
local function set(key, arguments, last, lasts)
  if key.texts.err then
    call('DEL', key.name)
    key.texts.err = nil
  end
  if now + lasts <= key.expires then return call('HSET', unpack(arguments, 1, last)) end
  lasts = math.min(math.ceil(lasts * 1.25), EXACT)
  key.expires = now + lasts
  arguments[last + 1], arguments[last + 2] = EXPIRES, key.expires
  call('HSET', unpack(arguments, 1, last + 2))
  local millis = (lasts - lasts % 1000) / 1000 + 2 + (ARGV[3] or 0)
  local expires = redis.pcall('PEXPIRE', key.name, millis)
  if expires ~= 1 then
    -- Not allowed, perhaps.
    call('DEL', key.name)
    error(expires.err)
  end
end

local function remove(key, field)
  local name = key.name
  if not key.texts.err then
    call('HDEL', name, field)
    if call('HLEN', name) > 1 then return end
  end
  call('DEL', name)
  key.expires, key.texts.err = 0, nil
end

-- With room for six.
local answer = { pack('<d', now), nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }

-- Corrections are made one by one.
local begins, told = 1, 1
while (operations:byte(begins + ACTION) or 0) > LEASE do
  local number, place, field, algorithm, action, first, second, units, window, capacity, cost,
    missing, missing_rest = parse(CORRECTION, operations, begins)
  local key = keys[number]
  local old_text = key.texts[place + 1]
  local fits, text, lasts, changed, _, list = ALGORITHMS[algorithm](
    action ~= RESET and old_text, action, first, second, units, window, capacity, cost, missing,
    missing_rest
  )
  answer[told + 1], answer[told + 2] = FITS, text
  if changed and (second > 0 or action == GIVE_BACK) or action == RESET then
    text = list or text
    if lasts > 0 then
      set(key, { key.name, field, text }, 3, lasts)
    elseif old_text then
      remove(key, field)
      text = false
    end
    -- What comes next may be of the same field.
    key.texts[place + 1] = text
  end
  begins, told = begins + OPERATION_SIZE, told + 2
end

-- Makes all charges; or answers false where one does not fit that must, with nothing written. Then it
-- is run again only to tell of them.
local function charge(makes)
  local told = told
  for begins = begins, #operations, OPERATION_SIZE do
    local number, place, field, algorithm, action, first, second, units, window, capacity =
      parse(OPERATION, operations, begins)
    local key = keys[number]
    local old_text = key.texts[place + 1]
    local fits, text, lasts, changed, taken, list = ALGORITHMS[algorithm](
      old_text, makes and action or PEEK, first, second, units, window, capacity
    )
    if makes and not fits and (action == ENFORCED or action == LEASE) then return false end
    answer[told + 1], answer[told + 2] = fits and FITS or REFUSED, text
    if action == LEASE then answer[told + 1] = answer[told + 1] .. pack('<d', taken) end
    if changed and action ~= PEEK then
      if lasts > 0 then
        local arguments, last = key.arguments, key.last + 2
        arguments[last - 1], arguments[last], key.last = field, list or text, last
        if lasts > key.lasts then key.lasts = lasts end
      elseif old_text then
        remove(key, field)
      end
    end
    told = told + 2
  end
  return true
end

if not charge(true) then
  for number = 1, #keys do keys[number].last, keys[number].lasts = 1, 0 end
  charge(false)
end
for number = 1, #keys do
  local key = keys[number]
  if key.last > 1 then set(key, key.arguments, key.last, key.lasts) end
end
return table.concat(answer)
