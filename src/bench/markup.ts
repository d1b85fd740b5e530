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

/** Renders a table of text cells. The first column names the row. */
export function tableMarkup(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (texts: readonly string[], first: string, other: string): string =>
    texts
      .map((text, at) =>
        at === 0 ? `<${first}>${escapeMarkup(text)}</th>` : `<${other}>${escapeMarkup(text)}</${other}>`,
      )
      .join('');
  return [
    '<div class="scroll"><table>',
    `<thead><tr>${cells(head, 'th scope="col"', 'th')}</tr></thead>`,
    '<tbody>',
    ...rows.map((row) => `<tr>${cells(row, 'th scope="row"', 'td')}</tr>`),
    '</tbody></table></div>',
  ].join('\n');
}
