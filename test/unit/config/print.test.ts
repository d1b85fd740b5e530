import { expect, test } from 'vitest';
import { ConfigError } from '../../../src/config/errors.ts';
import { printConfig } from '../../../src/config/print.ts';

test('the text', () => {
  const text = printConfig(
    {
      name: 'a "b"',
      description: 'one\ntwo',
      memoryPath: '/x/a.save',
      disks: [
        { kind: 'external', path: '/x/a.qcow2', format: 'qcow2', target: 'xvda' },
        { kind: 'internal', target: 'xvdb' },
        { kind: 'internal', target: 'xvdc', cow: { percent: 20 } },
        { kind: 'internal', target: 'xvdd', cow: { bytes: 2 ** 31 } },
      ],
    },
    'Made by xlsnap.\nOf domain g\r1.',
  );
  expect(text).toBe(
    [
      '# Made by xlsnap.',
      '# Of domain g 1.',
      'name="a \\"b\\""',
      'description="one\\ntwo"',
      'memory_path="/x/a.save"',
      'disks=[',
      '  "/x/a.qcow2,qcow2,xvda",',
      '  ",,xvdb",',
      '  ",,xvdc,cow=20%",',
      '  ",,xvdd,cow=2097152K",',
      ']',
      '',
    ].join('\n'),
  );
});

test.each([
  [{ name: '1' }],
  [{ description: '' }],
  [{ memoryPath: '/a\0' }],
  [{ disks: [{ kind: 'external', path: '/a,b', format: 'qcow2', target: 'xvda' }] as const }],
  [{ disks: [{ kind: 'external', path: '/a ', format: 'qcow2', target: 'xvda' }] as const }],
])('is refused if no cfgfile can express it: %j', (config) => {
  expect(() => printConfig(config)).toThrow(ConfigError);
});
