// The login keeps the link: the address names the page, its fragment the camera or the visit that was asked for.

const form = document.querySelector("form");
form.addEventListener("submit", () => {
  form.action = `login${location.search}${location.hash}`;
});
