// The summary of all cameras in the page header: current facts only, the most serious first.

import { classText } from "./dom.js";

/** `cards` have camera, state, isOpen, isLate, isCurrent, watching (header or null), visitClass; `node` is the last `node` message. */
export function summarise(cards, node) {
  const parts = [];
  const count = `${cards.length} ${cards.length === 1 ? "camera" : "cameras"}`;
  if (cards.length === 0) return { text: "Connecting…", kind: "lost" };
  if (cards.every((card) => !card.isOpen)) return { text: "Connecting to the gateway…", kind: "lost" };

  const alarmed = new Map(); // class: cameras
  for (const card of cards.filter((card) => card.isOpen && card.state === "tracking")) {
    const names = classText(card.visitClass);
    alarmed.set(names, [...(alarmed.get(names) ?? []), card.camera]);
  }
  for (const [names, cameras] of alarmed) parts.push(`${names}: ${cameras.join(", ")}`);

  const blind = cards.filter(isBlind);
  if (blind.length) {
    const names = blind.map((card) => card.camera).join(", ");
    parts.push(cards.length === 1 ? `Blind: ${names}` : `${blind.length} of ${cards.length} blind: ${names}`);
    const part = blind.length === cards.length ? commonPart(blind) : "";
    if (blind.every((card) => card.isLate)) parts.push("the connection is too slow");
    if (part === "detector") parts.push("detection is down");
    if (part === "controller") parts.push("no decisions are made");
  }
  const isQuiet = cards.every((card) => card.isCurrent && card.watching?.watching && card.state === "standby");
  if (parts.length === 0) parts.push(isQuiet ? `${count}, all quiet` : count);
  if (node?.broker === "away") parts.push("broker unreachable");
  const kind = alarmed.size ? "alarm" : blind.length || node?.broker === "away" ? "fault" : "";
  return { text: parts.join(" · "), kind };
}

/** Whether a camera is not watched, or not known to be watched because there is no connection, or too slow a one. */
export function isBlind(card) {
  return !card.isOpen || card.isLate || card.watching?.watching === false;
}

/** Lines below the header: problems that do not stop the watching but must be fixed. */
export function notices(cards, node) {
  const lines = new Map(); // text: cameras
  for (const card of cards) {
    for (const text of card.watching?.warnings ?? []) lines.set(text, [...(lines.get(text) ?? []), card.camera]);
  }
  const found = [...lines].map(([text, cameras]) => `${cameras.join(", ")}: ${text}`);
  if (node?.broker === "away" && cards.some((card) => card.isOpen)) {
    const waiting = node.events_waiting === 1 ? "1 event is" : `${node.events_waiting} events are`;
    found.unshift(`The MQTT broker cannot be reached: ${waiting} waiting.`);
  }
  return found;
}

function commonPart(blind) {
  const part = blind[0].watching?.part ?? "";
  return blind.every((card) => !card.isLate && card.watching?.part === part) ? part : "";
}
