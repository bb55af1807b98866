// The login keeps the link: the fragment of the address names the camera that was asked for.

const form = document.querySelector("form");
form.addEventListener("submit", () => {
  form.action = `login${location.hash}`;
});
