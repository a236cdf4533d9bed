# Of every group, the half of the channels whose producing weights have the smallest Euclidean norm.
def scores: [.members[] | select(.main and .role == "out") | .l2] | transpose | map(map(. * .) | add);
def smallest($count): to_entries | sort_by(.value) | .[:$count] | map(.key);

{
  format: "prunegraph/plan@2",
  model,
  remove: (.groups | map({key: .id, value: (.channels as $n | scores | smallest($n / 2 | floor))}) | from_entries)
}
