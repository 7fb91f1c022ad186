// The page at `/docs`: the address that it came from in its calls, and a button that copies each.

const base = new URL(".", location.href).href.replace(/\/$/, "");
for (const address of document.querySelectorAll(".address")) address.textContent = base;

/** The clipboard needs https or localhost; elsewhere the older way does it. */
async function copy(call, button) {
  const written = navigator.clipboard?.writeText(call.textContent);
  const copied = await written?.then(() => true, () => false);
  if (!copied) getSelection().selectAllChildren(call);
  button.textContent = copied || document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

for (const call of document.querySelectorAll("pre.call")) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.textContent = "Copy";
  button.onclick = () => copy(call, button);
  const around = Object.assign(document.createElement("div"), { className: "copied" });
  call.replaceWith(around);
  around.append(call, button);
}
