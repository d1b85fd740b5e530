/** Writes the language of manual pages (man(7), groff_char(7)): a few macros, and text escaped for them. */
import { lexer, type Token, type Tokens } from 'marked';

/** Maximum length of a line; mandoc's lint asks for at most 80. */
const MAX_LINE = 78;

/** A page that is being written. */
export class Roff {
  readonly #lines: string[] = [];

  /**
   * Starts a page.
   * @param title the name that `man` is asked for
   * @param options `date`: YYYY-MM-DD
   */
  constructor(title: string, section: number, options: { date: string; source: string; manual: string }) {
    const words = [title.toUpperCase(), String(section)].map(quoted);
    this.#lines.push(
      '.\\" Made by scripts/man.ts; do not edit.',
      `.TH ${[...words, options.date, quoted(options.source), quoted(options.manual)].join(' ')}`,
      '.nh',
      '.ad l',
    );
  }

  section(title: string): this {
    return this.#add(`.SH ${quoted(title.toUpperCase())}`);
  }

  subsection(title: string): this {
    return this.#add(`.SS ${quoted(title)}`);
  }

  /**
   * Adds a paragraph.
   * @param text in the page's language: see `escaped`, `bold`, `inline`
   */
  paragraph(text: string): this {
    return this.#add(...this.#apart(), textLines(text));
  }

  /** Adds a paragraph with a heading of its own beside it. */
  item(tag: string, text: string): this {
    return this.#add('.TP', textLines(tag), textLines(text === '' ? '\\&' : text));
  }

  bullet(text: string): this {
    return this.#add('.IP \\(bu 2', textLines(text));
  }

  /** Adds lines unchanged. */
  code(text: string): this {
    return this.#add(
      '.PP',
      '.RS 4',
      '.EX',
      ...text.split('\n').map((line) => guarded(code(line))),
      '.EE',
      '.RE',
    );
  }

  /** Adds Markdown, without its title. Headings become sections. */
  markdown(text: string): this {
    for (const token of lexer(text)) this.#token(token);
    return this;
  }

  toString(): string {
    return `${this.#lines.join('\n')}\n`;
  }

  #token(token: Token): void {
    if (isToken(token, 'heading')) {
      if (token.depth === 2) this.section(token.text);
      else if (token.depth > 2) this.subsection(token.text);
    } else if (isToken(token, 'paragraph')) this.paragraph(inline(token.tokens));
    else if (isToken(token, 'code')) this.code(token.text);
    else if (isToken(token, 'list')) {
      for (const item of token.items) this.bullet(inline(item.tokens));
    } else if (isToken(token, 'table')) this.#table(token);
    else if (token.type !== 'space')
      throw new Error(`Markdown's ${token.type} is not supported in a manual page`);
  }

  /**
   * Adds a table as a list: the first column, then the others, each with its heading if there are several.
   */
  #table({ header, rows }: Tokens.Table): void {
    for (const [first, ...others] of rows) {
      const texts = others.map((cell, at) => {
        const heading = header[at + 1];
        const text = inline(cell.tokens);
        return others.length === 1 || heading === undefined ? text : `${inline(heading.tokens)}: ${text}`;
      });
      this.item(inline(first?.tokens ?? []), texts.join('\n.br\n'));
    }
  }

  /** Returns the macro between paragraphs; the first one of a section needs none. */
  #apart(): readonly string[] {
    return /^\.S[HS] /.test(this.#lines.at(-1) ?? '') ? [] : ['.PP'];
  }

  #add(...lines: readonly string[]): this {
    this.#lines.push(...lines);
    return this;
  }
}

/** Escapes running text. */
export function escaped(text: string): string {
  return text.replaceAll('\\', '\\e').replaceAll(/…/g, '...');
}

/** Escapes what one types: every character unchanged, so that it can be copied from the page. */
export function code(text: string): string {
  const names: Readonly<Record<string, string>> = {
    '-': '\\-',
    "'": '\\(aq',
    '`': '\\(ga',
    '^': '\\(ha',
    '~': '\\(ti',
  };
  return escaped(text).replaceAll(/[-'`^~]/g, (character) => names[character] ?? character);
}

export function bold(text: string): string {
  return `\\fB${code(text)}\\fR`;
}

export function italic(text: string): string {
  return `\\fI${escaped(text)}\\fR`;
}

/** Converts Markdown's tokens within a paragraph. */
export function inline(tokens: readonly Token[]): string {
  return tokens
    .map((token) => {
      if (isToken(token, 'codespan')) return bold(token.text);
      if (isToken(token, 'em') || isToken(token, 'strong') || isToken(token, 'link')) {
        const text = inline(token.tokens);
        if (token.type === 'link')
          return /^https?:/.test(token.href) ? `${text} (${escaped(token.href)})` : text;
        return `${token.type === 'em' ? '\\fI' : '\\fB'}${text}\\fR`;
      }
      if (isToken(token, 'text')) return token.tokens ? inline(token.tokens) : escaped(token.text);
      if (isToken(token, 'escape')) return escaped(token.text);
      throw new Error(`Markdown's ${token.type} is not supported in a manual page`);
    })
    .join('');
}

interface Known {
  heading: Tokens.Heading;
  paragraph: Tokens.Paragraph;
  code: Tokens.Code;
  list: Tokens.List;
  table: Tokens.Table;
  codespan: Tokens.Codespan;
  em: Tokens.Em;
  strong: Tokens.Strong;
  link: Tokens.Link;
  text: Tokens.Text;
  escape: Tokens.Escape;
}

function isToken<Type extends keyof Known>(token: Token, type: Type): token is Known[Type] & Token {
  return token.type === type;
}

/**
 * Breaks running text into lines of at most 78 characters. One that begins with `.` or `'` would be taken for
 * a macro.
 */
function textLines(text: string): string {
  const lines = text.split('\n.br\n').map((part) => {
    const filled: string[] = [];
    for (const word of part.split(/\s+/)) {
      const line = filled.at(-1);
      if (line === undefined || line.length + word.length >= MAX_LINE) filled.push(word);
      else filled[filled.length - 1] = `${line} ${word}`;
    }
    return filled.map(guarded).join('\n');
  });
  return lines.join('\n.br\n');
}

function guarded(line: string): string {
  return /^['.]/.test(line) ? `\\&${line}` : line;
}

function quoted(text: string): string {
  return `"${code(text).replaceAll('"', '\\(dq')}"`;
}
