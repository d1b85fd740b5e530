/** Builds HTML from text. */

/** Escapes text for the content of an element or a quoted attribute. */
export function escapeMarkup(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
}

/**
 * Renders a table of text cells. The first column names the row.
 * @param narrow what becomes of it in a narrow window: it scrolls, or each row becomes a list
 */
export function tableMarkup(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  narrow: 'scroll' | 'cards' = 'cards',
): string {
  const cells = (texts: readonly string[], first: string, other: string): string =>
    texts
      .map((text, at) =>
        at === 0
          ? `<${first}>${escapeMarkup(text)}</th>`
          : `<${other}${other === 'td' && narrow === 'cards' ? ` data-label="${escapeMarkup(head[at] ?? '')}"` : ''}>${escapeMarkup(text)}</${other}>`,
      )
      .join('');
  return [
    `<div class="${narrow}"><table>`,
    `<thead><tr>${cells(head, 'th scope="col"', 'th')}</tr></thead>`,
    '<tbody>',
    ...rows.map((row) => `<tr>${cells(row, 'th scope="row"', 'td')}</tr>`),
    '</tbody></table></div>',
  ].join('\n');
}
