// One selection for all that a page shows, kernel or not: an event on its document. `detail` is the whole of it,
// { by, image: { of, ids }, code: { of, ids }, run: { of, ids } }: of a kind that is not there nothing is selected.
// Ids mean the same only where `of` is the same, such as the fingerprint of the images that they count.

function brush(page, of) {
  const by = {}, event = "workbench:selected";
  return {
    // Tell the others: { image: [ids], ... }; of nothing, that nothing is selected any more.
    say(told) {
      const parts = Object.entries(told).map(([kind, ids]) => [kind, { of: of[kind], ids }]);
      page.dispatchEvent(new CustomEvent(event, { detail: { by, ...Object.fromEntries(parts) } }));
    },
    // What others tell, as far as it is about what is shown here, in the same words.
    hear(act) {
      page.addEventListener(event, ({ detail }) => {
        const mine = Object.keys(of).filter((kind) => detail[kind]?.of === of[kind]);
        if (detail.by !== by) act(Object.fromEntries(mine.map((kind) => [kind, detail[kind].ids])));
      });
    },
  };
}
