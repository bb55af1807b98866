// Chooses the number of grid columns: the fewest that fit all cameras into the window, for the largest pictures.

const GAP = 14;
const LEAST_WIDTH = 280; // minimum width of a card

/** Returns the number of columns for `count` cards in width × height; `bar` is the height below a picture. */
export function columnsFor(count, width, height, bar) {
  let columns = 1;
  for (let tried = 1; tried <= Math.max(1, count); tried += 1) {
    const card = (width - GAP * (tried - 1)) / tried;
    if (tried > 1 && card < LEAST_WIDTH) break;
    columns = tried;
    const rows = Math.ceil(count / tried);
    if (rows * ((card * 9) / 16 + bar) + GAP * (rows - 1) <= height) break;
  }
  return columns;
}

/** Fits the grid to the window. */
export function fit(grid) {
  const bars = [...grid.querySelectorAll(".bar")].map((bar) => bar.offsetHeight);
  const height = window.innerHeight - grid.getBoundingClientRect().top - window.scrollY - 16;
  const columns = columnsFor(grid.children.length, grid.clientWidth, height, Math.max(44, ...bars) + 2);
  grid.style.setProperty("--columns", columns);
}
