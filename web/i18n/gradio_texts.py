"""Translates, in the browser, texts that Gradio has in English only: names for screen readers, headings of messages,
the state of the queue. Gradio has no Italian translation at all."""

import json

from web.i18n.translator import MASTER, texts_of

PREFIX = "gradio."  # of the keys; their English strings are those of Gradio
HEADINGS = {"Error": "error.title", "Success": "message.done"}
# Elements whose own text is replaced. Text of the user, such as names of voices and files, stands in none of them.
PLACES = (
    ".toast-title, .toast-title span, .toast-message-text, .meta-text, .meta-text-center, .wrap, .or, "
    ".mic-select option, .record-button, .stop-button, .stop-button-paused, .resume-button"
)
NAMED = ":is(button, input, select, [role]:not([role=option]))[aria-label]"
_SCRIPT = """(() => {
  const texts = %s;
  const translated = (text) => {
    for (const [from, to] of texts) {
      const [head, tail] = from.split("{value}");
      if (tail === undefined ? text === from : text.startsWith(head) && text.endsWith(tail))
        return to.replace("{value}", () => text.slice(head.length, text.length - tail.length).trim());
    }
  };
  const translate = (owner, attribute) => {
    const text = owner[attribute] && translated(owner[attribute].replace(/\\s+/g, " ").trim());
    if (text) owner[attribute] = text;
  };
  new MutationObserver(() => {
    for (const element of document.querySelectorAll("%s"))
      translate(element, "ariaLabel");
    for (const element of document.querySelectorAll("%s"))
      for (const node of element.childNodes) if (node.nodeType === Node.TEXT_NODE) translate(node, "nodeValue");
  }).observe(document, {childList: true, subtree: true, characterData: true, attributeFilter: ["aria-label"]});
})();"""


def gradio_texts(locale: str) -> list[tuple[str, str]]:
    """Return Gradio's English texts with their translations; `{value}` stands for a value in them."""
    texts, english = texts_of(locale), texts_of(MASTER)
    headings = [(heading, texts[key]) for heading, key in HEADINGS.items()]
    return headings + [(english[key], texts[key]) for key in english if key.startswith(PREFIX)]


def translate_script(locale: str) -> str:
    """Return JavaScript that translates these texts in the page whenever they appear."""
    pairs = [pair for pair in gradio_texts(locale) if pair[0] != pair[1]]
    return _SCRIPT % (json.dumps(pairs, ensure_ascii=False), NAMED, PLACES)
