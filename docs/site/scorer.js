// What helps somebody comes before what explains how it came to be, and a section whose heading is
// what was searched for before pages that merely have its words.
const HEADING = 15; // what Sphinx gives for all of a title
Scorer.score = ([name, , anchor, , score]) => {
  const found = anchor && score >= HEADING ? score + 1 : score;
  return /^(decisions\/|(changelog|contributing|specification|principles)$)/.test(name)
    ? found / 4
    : found;
};
