// Cards of pictures. `data` is {html}: the same cards as in a notebook or a report, made by Python. Cards and pictures
// with an image index get buttons. `view` is {kind: "image", id, action, at}: the button that was pressed last,
// where action is "select", "similar" or "lens"; or {kind: "image", ids}: a view of Python, which marks these images.

const ACTIONS = [
  ["select", "select", "Select this image, or deselect it"],
  ["similar", "similar", "Show the images that are most similar to this one"],
  ["lens", "lens", "Open this image in the lens"],
];

export default {
  render({ model, el }) {
    const place = el.appendChild(document.createElement("div"));
    const send = (id, action) => {
      model.set("view", JSON.stringify({ kind: "image", id, action, at: Date.now() }));
      model.save_changes();
    };
    const equip = (owner) => {
      const id = Number(owner.dataset.image), isCard = owner.classList.contains("wb-card");
      if (isCard) {
        const buttons = owner.querySelector(".wb-head").appendChild(document.createElement("span"));
        buttons.className = "wb-actions";
        for (const [action, textContent, title] of ACTIONS) {
          const button = buttons.appendChild(document.createElement("button"));
          Object.assign(button, { textContent, title, onclick: () => send(id, action) });
        }
      }
      const picture = isCard ? owner.querySelector(".wb-pictures") : owner;
      picture.style.cursor = "pointer";
      picture.onclick = () => send(id, isCard ? "select" : "similar");
    };
    const mark = () => {
      const { ids } = JSON.parse(model.get("view") || "{}");
      if (!ids) return;
      for (const owner of place.querySelectorAll(".wb-card[data-image]"))
        owner.setAttribute("aria-selected", ids.includes(Number(owner.dataset.image)));
    };
    const draw = () => {
      place.innerHTML = JSON.parse(model.get("data") || "{}").html ?? "";
      place.querySelectorAll("[data-image]").forEach(equip);
      mark();
    };
    model.on("change:data", draw);
    model.on("change:view", mark);
    draw();
    return () => {
      model.off("change:data", draw);
      model.off("change:view", mark);
    };
  },
};
