// Preserves the requested link through the login: the query is the page, the fragment the camera or the visit.

const form = document.querySelector("form");
form.addEventListener("submit", () => {
  form.action = `login${location.search}${location.hash}`;
});
