-- One line of figures for benches/http/run: requests, requests a second, p50 and p95 in microseconds, errors.
done = function(summary, latency, requests)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("figures %d %.1f %d %d %d\n", summary.requests, summary.requests / (summary.duration / 1e6),
        latency:percentile(50), latency:percentile(95), failed))
end
