// The selection that all figures and modules of a page share, without a kernel: an event on its
// document. `detail` is the whole selection,
// { by, image: { of, ids }, code: { of, ids }, run: { of, ids } }; a kind that is missing has none.
// Ids are comparable only if `of` is equal, for example the fingerprint of the images they count.

function brush(page, of) {
  const by = {}, event = "workbench:selected";
  return {
    // Publish a selection, { image: [ids], ... }; {} selects nothing.
    publish(selection) {
      const kinds = Object.entries(selection).map(([kind, ids]) => [kind, { of: of[kind], ids }]);
      page.dispatchEvent(new CustomEvent(event, { detail: { by, ...Object.fromEntries(kinds) } }));
    },
    // Call an action with the selections of others, as far as their ids are comparable with ours.
    subscribe(action) {
      page.addEventListener(event, ({ detail }) => {
        if (detail.by === by) return;
        const kinds = Object.keys(of).filter((kind) => detail[kind]?.of === of[kind]);
        action(Object.fromEntries(kinds.map((kind) => [kind, detail[kind].ids])));
      });
    },
  };
}
