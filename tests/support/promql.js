// Reads a JSON list of PromQL queries; prints those that Prometheus's own grammar doesn't take, as a JSON list.
const { parser } = require("@prometheus-io/lezer-promql");

const queries = JSON.parse(require("fs").readFileSync(0, "utf8"));
const wrong = queries.filter((query) => {
  let bad = false;
  parser.parse(query).iterate({ enter: (node) => void (bad ||= node.type.isError) });
  return bad;
});
console.log(JSON.stringify(wrong));
