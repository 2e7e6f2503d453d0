// What helps somebody comes before what explains how it came to be.
Scorer.score = ([name, , , , score]) =>
  /^(decisions\/|(changelog|contributing|specification|principles)$)/.test(name) ? score / 4 : score;
