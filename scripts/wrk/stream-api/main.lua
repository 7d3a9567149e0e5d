-- What wrk sends: one of 100 prepared records each time. Counts answers of another status than
-- expected, and stops wrk after TOTAL_REQUESTS (0: after its duration), which needs a single thread.
local threads = {}
local total, sent, answered, unexpected = 0, 0, 0, 0
local expected = tonumber(os.getenv("EXPECTED_STATUS"))

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

local payloads = {}

function init()
  total = tonumber(os.getenv("TOTAL_REQUESTS"))
  math.randomseed(os.time() + number)
  local h = string.rep("a", tonumber(os.getenv("STREAM_PAYLOAD_SIZE")))
  local headers = { ["Content-Type"] = "application/json", ["My-Custom-Header"] = "custom header value" }
  for i = 1, 100 do
    local g = {}
    for j = 1, 10 do
      g[j] = string.char(97 + math.random(0, 25))
    end
    local body = '{"a":1,"c":{"d":"e","f":{"g":"' .. table.concat(g) .. '","h":"' .. h .. '"}}}'
    payloads[i] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  sent = sent + 1
  return payloads[sent % 100 + 1]
end

function response(status)
  answered = answered + 1
  if status ~= expected then
    unexpected = unexpected + 1
    first_unexpected = first_unexpected or status
  end
  requests_unexpected = unexpected
  if answered == total then
    -- As Ctrl-C: the first thread of wrk sleeps for the whole duration. Later, since execute() ignores it.
    os.execute("(sleep 0.1; kill -INT $PPID) &")
    wrk.thread:stop()
  end
end

function done(summary, latency)
  local wrong, status = 0, 0
  for _, thread in ipairs(threads) do
    wrong = wrong + (thread:get("requests_unexpected") or 0)
    status = thread:get("first_unexpected") or status
  end
  local broken = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.3f,"unexpected":%d,"unexpectedStatus":%d,"broken":%d,"p50":%.3f,"p95":%.3f,"p99":%.3f,"max":%.3f}\n',
    summary.requests, summary.duration / 1e6, wrong, status,
    broken.connect + broken.read + broken.write + broken.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
