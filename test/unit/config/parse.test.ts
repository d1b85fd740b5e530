import { describe, expect, test } from 'vitest';
import { ConfigError } from '../../../src/config/errors.ts';
import { MAX_CONFIG_BYTES, parseConfig } from '../../../src/config/parse.ts';
import { EXIT } from '../../../src/core/errors.ts';

function errorOf(input: string | Uint8Array): ConfigError {
  try {
    parseConfig(input, 's.cfg');
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('was taken');
}

/** Returns codes and places of all findings. */
const found = (input: string): string[] =>
  errorOf(input).findings.map((one) => `${one.line}:${one.column} ${one.code}`);

test('a key of 1 MB is not repeated in the message', () => {
  expect(errorOf('k'.repeat(1_000_000)).message.length).toBeLessThan(1000);
});

describe('what a cfgfile may contain', () => {
  test('the file of the RFC', () => {
    const text = `
      # a comment; with ' and " and [
      name="before-upgrade"    # behind a value
      description='it''s'
    `.replace("it''s", "it\\'s");
    expect(parseConfig(text)).toEqual({
      name: 'before-upgrade',
      description: "it's",
      source: 'cfgfile',
    });
  });

  test('disks over several lines, with comments, both quotes, spaces and a trailing comma', () => {
    const text = [
      'memory_path="/x/m.save"; disks=[ # first',
      "  '/x/hda_snap.qcow2,qcow2,hda',   # external",
      '',
      '  ",,hdb"',
      "  , '/y/b.qcow2, qcow2, xvdc',",
      ']',
    ].join('\n');
    expect(parseConfig(text, 's.cfg')).toEqual({
      memoryPath: '/x/m.save',
      disks: [
        { kind: 'external', path: '/x/hda_snap.qcow2', format: 'qcow2', target: 'hda' },
        { kind: 'internal', target: 'hdb' },
        { kind: 'external', path: '/y/b.qcow2', format: 'qcow2', target: 'xvdc' },
      ],
      source: 's.cfg',
    });
  });

  test('empty texts count as left out; an empty list does not', () => {
    expect(parseConfig('name=""\ndescription=""\nmemory_path=""\ndisks=[]')).toEqual({
      disks: [],
      source: 'cfgfile',
    });
    expect(parseConfig('')).toEqual({ source: 'cfgfile' });
  });

  test('+= joins texts and lists, and sets what was not set', () => {
    const text = "description='a'\ndescription+=\"b\"\ndisks+=[',,xvda']\ndisks += [',,xvdb']";
    expect(parseConfig(text)).toEqual({
      description: 'ab',
      disks: [
        { kind: 'internal', target: 'xvda' },
        { kind: 'internal', target: 'xvdb' },
      ],
      source: 'cfgfile',
    });
  });

  test.each([
    ['cow=512M', { bytes: 512 * 2 ** 20 }],
    [' cow = 2g ', { bytes: 2 ** 31 }],
    ['cow=1T', { bytes: 2 ** 40 }],
    ['cow=4K', { bytes: 4096 }],
    ['cow=20%', { percent: 20 }],
  ])('the room of a thick snapshot: %s', (option, cow) => {
    expect(parseConfig(`disks=[',,xvda,${option}']`).disks).toEqual([
      { kind: 'internal', target: 'xvda', cow },
    ]);
  });

  test('escapes; a number is a text; a comment may end the file; a BOM is ignored', () => {
    expect(parseConfig('description="\\\\ \\" \\\' \\n\\t"').description).toBe('\\ " \' \n\t');
    expect(parseConfig('description=0x1f # end').description).toBe('0x1f');
    expect(parseConfig(new TextEncoder().encode('\ufeffname="é"')).name).toBe('é');
  });
});

describe('what is wrong, and where', () => {
  test.each([
    ['name = x', '1:8 SYNTAX', /values must be in quotes/],
    ['name "x"', '1:6 SYNTAX', /expected = after name/],
    ['name="x" description="y"', '1:10 SYNTAX', /expected the end of the line/],
    ['name="x', '1:6 SYNTAX', /not closed on its line/],
    ['name="x\n"', '1:6 SYNTAX', /not closed on its line/],
    ['name=\n"x"', '1:6 SYNTAX', /found the end of the line/],
    ['name="x"\r\n', '1:9 SYNTAX', /DOS line endings/],
    ['\n  disks=[\n', '2:9 SYNTAX', /list is not closed/],
    ["disks=[',,xvda' ',,xvdb']", '1:17 SYNTAX', /expected a comma/],
    ["disks=[',,xvda',,]", '1:17 SYNTAX', /expected an entry/],
    ["disks=[[',,xvda']]", '1:8 SYNTAX', /expected an entry/],
    ['[]', '1:1 SYNTAX', /expected a key/],
    ['memory_path="/a\\x41"', '1:16 SYNTAX', /unknown escape: \\x/],
    ['memory_path="/a\\101"', '1:16 SYNTAX', /unknown escape: \\1/],
    ['name="x"+"y"', '1:9 SYNTAX', /unexpected "\+"/],
    ['\tname="x"\n é = 3', '2:2 SYNTAX', /unexpected "é"/],
    ['memroy_path="/x"', '1:1 UNKNOWN_KEY', /did you mean memory_path\?/],
    ['Name="x"', '1:1 UNKNOWN_KEY', /did you mean name\?/],
    ['memory-path="/x"', '1:1 UNKNOWN_KEY', /did you mean memory_path\?/],
    ['vcpus=3', '1:1 UNKNOWN_KEY', /the keys are name, description, memory_path, disks/],
    ['__proto__="x"', '1:1 UNKNOWN_KEY', /__proto__/],
    ['constructor="x"', '1:1 UNKNOWN_KEY', /constructor/],
    ['name="a"\nname="b"', '2:1 DUPLICATE_KEY', /name is set a second time/],
    ['name="a"\nname+=["b"]', '2:1 WRONG_TYPE', /cannot be joined/],
    ['name=["a"]', '1:6 WRONG_TYPE', /name is a string/],
    ['disks=",,xvda"', '1:7 WRONG_TYPE', /disks is a list/],
    ["disks=['xvda']", '1:8 BAD_DISK', /has 1 field, not 3/],
    ["disks=['/a,qcow2']", '1:8 BAD_DISK', /has 2 fields, not 3/],
    ["disks=['/a,b,qcow2,xvda']", '1:8 BAD_DISK', /has 4 fields, not 3/],
    ['disks=[3]', '1:8 BAD_DISK', /has 1 field/],
    ["disks=['format=qcow2,vdev=xvda,target=/o.qcow2']", '1:8 BAD_DISK', /has xl's keywords/],
    ["disks=['vdev = xvda']", '1:8 BAD_DISK', /has xl's keywords/],
    ["disks=['/a,qcow2,']", '1:8 BAD_DISK', /no target device/],
    ["disks=[',,/dev/xvda']", '1:8 BAD_DISK', /not a target device/],
    ["disks=[',qcow2,xvda']", '1:8 BAD_DISK', /a format but no path/],
    ["disks=['/a,,xvda']", '1:8 BAD_DISK', /a path but no format/],
    ["disks=[',,xvda,cow=']", '1:8 BAD_DISK', /no valid size after cow=/],
    ["disks=[',,xvda,cow=0']", '1:8 BAD_DISK', /no valid size/],
    ["disks=[',,xvda,cow=101%']", '1:8 BAD_DISK', /no valid size/],
    ["disks=[',,xvda,cow=12345678901234T']", '1:8 BAD_DISK', /no valid size/],
    ["disks=[',,xvda,cow=1G,cow=1G']", '1:8 BAD_DISK', /more than 4 fields|5 fields/],
    ["disks=['/a,raw,xvda,cow=1G']", '1:8 BAD_DISK', /both a path or a format and cow=/],
    ["disks=['/a,vhd,xvda']", '1:8 BAD_FORMAT', /raw for a clone/],
    ["disks=['a.qcow2,qcow2,xvda']", '1:8 RELATIVE_PATH', /not absolute/],
    ["disks=['/a/,qcow2,xvda']", '1:8 BAD_PATH', /names a directory/],
    ["disks=[',,xvda',\n ',,xvda']", '2:2 DUPLICATE_DISK', /a second time/],
    ['memory_path="m.save"', '1:13 RELATIVE_PATH', /not absolute/],
    ['memory_path="/a\\nb"', '1:13 BAD_PATH', /control character/],
    ['description="\\a"', '1:13 BAD_DESCRIPTION', /control character/],
    ['name="a/b"', '1:6 BAD_NAME', /slash/],
    ['name="20261123"', '1:6 BAD_NAME', /only digits/],
    ['name=7', '1:6 BAD_NAME', /only digits/],
  ])('%s', (text, place, message) => {
    expect(found(text)).toEqual([place]);
    const error = errorOf(text);
    expect(`${error.message} ${error.hint}`).toMatch(message);
    expect(error.code).toBe(place.split(' ')[1]);
    expect(error.exitCode).toBe(EXIT.config);
  });

  test('a disk in xl’s keywords: the hint says what to write', () => {
    expect(errorOf("disks=['format=qcow2, vdev=xvda, target=/o.qcow2']").hint).toBe(
      "write '/o.qcow2,qcow2,xvda' for an external snapshot, ',,xvda' for an internal one",
    );
    expect(errorOf("disks=['vdev=xvda']").hint).toContain("write 'PATH,qcow2,xvda'");
  });

  test('everything at once, in the order of the file', () => {
    const text = "nam='x'\ndisks=['a,b', ',,x']\nmemory_path='m'\ndisks=[]";
    expect(found(text)).toEqual([
      '1:1 UNKNOWN_KEY',
      '2:8 BAD_DISK',
      '3:13 RELATIVE_PATH',
      '4:1 DUPLICATE_KEY',
    ]);
    expect(errorOf(text).message.match(/^s\.cfg:\d+:\d+: /gm)).toHaveLength(4);
  });

  test('the line and a caret', () => {
    expect(errorOf('# é\n\tdisks=[ "é", "b" ]').message).toBe(
      [
        's.cfg:2:10: "é" has 1 field, not 3 (write \'PATH,qcow2,TARGET\' for an external snapshot,' +
          " ',,TARGET' for an internal one)",
        '2 |  disks=[ "é", "b" ]',
        '  |          ^',
        's.cfg:2:15: "b" has 1 field, not 3 (write \'PATH,qcow2,TARGET\' for an external snapshot,' +
          " ',,TARGET' for an internal one)",
        '2 |  disks=[ "é", "b" ]',
        '  |               ^',
      ].join('\n'),
    );
  });

  test('a long line is shown in part, and no control character reaches the terminal', () => {
    const error = errorOf(`description="${'x'.repeat(5000)}\x1b[31m" =`);
    const [line = '', caret = ''] = error.findings[0]?.excerpt?.split('\n') ?? [];
    expect(line.length).toBeLessThan(100);
    expect(line[caret.indexOf('^')]).toBe('=');
    expect(error.message).not.toContain('\x1b');
  });

  test('no more than twenty findings', () => {
    const error = errorOf(Array.from({ length: 5000 }, (_, i) => `key${i}=1`).join('\n'));
    expect(error.findings).toHaveLength(20);
    expect(error.message).toMatch(/and 4980 more$/);
  });

  test('a path that is too long', () => {
    expect(errorOf(`memory_path="/${'a'.repeat(4095)}"`).message).toMatch(/longer than 4095/);
    expect(parseConfig(`memory_path="/${'a'.repeat(4094)}"`).memoryPath).toHaveLength(4095);
  });

  test('files that are not text', () => {
    expect(errorOf(new Uint8Array([0x6e, 0xff])).code).toBe('NOT_UTF8');
    expect(errorOf('name="a\0b"').code).toBe('NOT_TEXT');
    expect(errorOf(new Uint8Array(MAX_CONFIG_BYTES + 1)).code).toBe('TOO_LONG');
    expect(parseConfig(' '.repeat(MAX_CONFIG_BYTES))).toEqual({ source: 'cfgfile' });
  });
});
