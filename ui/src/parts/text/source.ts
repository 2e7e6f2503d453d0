// The source of an invocation in words, by the API's names.
export const FROM: Record<string, string> = {
  sync: "a caller who waited",
  async: "a caller who did not wait",
  schedule: "a schedule",
  url: "a request to the function's URL",
  redrive: "a dead letter that was queued again",
  replay: "a replay",
  destination: "the end of another call",
};
