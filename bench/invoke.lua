-- One kind of call, over and over; prints latency percentiles in microseconds as JSON.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = "{}"

local bad = 0

function response(status)
  if status ~= 200 and status ~= 202 then bad = bad + 1 end
end

function done(summary, latency)
  io.write(string.format(
    '\n{"p50_us": %d, "p99_us": %d, "requests": %d, "seconds": %.3f, "errors": %d}\n',
    latency:percentile(50), latency:percentile(99), summary.requests, summary.duration / 1e6,
    summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.status + summary.errors.timeout))
end
