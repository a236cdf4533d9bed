// Removes the channels that are quietest on the data, one by one, until the bound on MACs is met.
const { nodes, groups, request, model } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const { kind, bound } = request.budget;
if (kind !== "macs") throw new Error("give a bound, --macs X");

// What is left of a layer's MACs is the product of what is left of its weight's axes.
const left = new Map(nodes.filter((node) => node.macs).map((node) => [node.index, { macs: node.macs, axes: {} }]));
const cost = ({ macs, axes }) => Object.values(axes).reduce((product, share) => product * share, macs);
let total = [...left.values()].reduce((sum, layer) => sum + cost(layer), 0);

function removeOneOf(group) {
  for (const { nodes, weight, axis, per_channel, size } of group.members.filter((member) => member.main)) {
    for (const layer of nodes.map((index) => left.get(index)).filter(Boolean)) {
      const key = `${weight}/${axis}`;
      total -= cost(layer);
      layer.axes[key] = (layer.axes[key] ?? 1) - per_channel / size;
      total += cost(layer);
    }
  }
}

// A channel's score is its mean activation where layers read it, compared with the others of its group.
const channels = groups.filter((group) => !request.protected.includes(group.id)).flatMap((group) => {
  if (!group.activations) throw new Error("give --data FILE");
  const read = group.activations.filter((each) => each.role === "in");
  const score = Array(group.channels).fill(0);
  for (const { mean } of read) mean.forEach((value, channel) => (score[channel] += Math.abs(value)));
  const most = Math.max(...score) || 1;
  return score.map((value, channel) => ({ group, channel, score: value / most }));
});
channels.sort((a, b) => a.score - b.score);

const remove = Object.fromEntries(groups.map((group) => [group.id, []]));
for (const { group, channel } of channels) {
  if (total <= bound) break;
  if (group.channels - remove[group.id].length <= request.min_channels) continue;
  remove[group.id].push(channel);
  removeOneOf(group);
}
console.error(`quiet.js: ${Math.round(total)} MACs of at most ${Math.round(bound)} are left`);
console.log(JSON.stringify({ format: "prunegraph/plan@2", model, remove }));
