// Open-loop load for k6: requests leave at a fixed rate whether or not replies come, so overload shows as latency.
//   docker compose --profile load run --rm k6
//   k6 run -e URL=http://localhost:8080 -e RATE=500 -e TIME=30s docker/k6.js
// Fails (exit status 99) when the p99 of a recall is above P99_MS or more than one request in a thousand fails.
// Ids are those of the demo's synthetic logs; unknown ids are dropped by the service, so it runs on any bundle.
import { check } from "k6";
import http from "k6/http";

const URL = __ENV.URL || "http://localhost:8080";
const NUM_USERS = Number(__ENV.USERS || 6000);
const NUM_ITEMS = Number(__ENV.ITEMS || 3000);
const RATE = Number(__ENV.RATE || 200);
const FEEDBACK_SHARE = 0.2;

export const options = {
  scenarios: {
    feed: {
      executor: "constant-arrival-rate",
      rate: RATE,
      timeUnit: "1s",
      duration: __ENV.TIME || "60s",
      // enough for a second of waiting; what finds none free is counted by k6 as dropped
      preAllocatedVUs: RATE,
      maxVUs: 2 * RATE,
    },
  },
  thresholds: {
    "http_req_duration{name:recall}": [`p(99)<${__ENV.P99_MS || 30}`],
    http_req_failed: ["rate<0.001"],
    dropped_iterations: ["count<1"],
  },
};

// low ids often, like the head of a real catalogue
const popular = () => 1 + Math.floor(NUM_ITEMS * Math.random() ** 3);

function post(path, body) {
  const params = { headers: { "content-type": "application/json" }, tags: { name: path } };
  return http.post(`${URL}/${path}`, JSON.stringify(body), params);
}

export default function () {
  const user_id = 1 + Math.floor(NUM_USERS * Math.random());
  if (Math.random() < FEEDBACK_SHARE) {
    post("feedback", { user_id, item_id: popular(), action: "play", watch_time_ms: Math.floor(60000 * Math.random()) });
    return;
  }
  const history = Array.from({ length: 1 + Math.floor(50 * Math.random()) }, popular);
  const answer = post("recall", { user_id, history, top_n: 100 });
  check(answer, { "100 items": (r) => r.status === 200 && r.json("items").length === 100 });
}
