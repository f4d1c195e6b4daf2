import fc from 'fast-check';

const VARINT = 0;
const FIXED64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;
const FIELD_NUMBERS = { min: 1, max: 20 };

/**
 * Any message as protobuf writes it (https://protobuf.dev/programming-guides/encoding/), whatever the receiver takes it for:
 * fields of other types than it expects, several cases of a oneof, numbers out of range, texts that are not UTF-8, messages
 * within messages.
 *
 * @param text what its texts are made of, besides bytes
 */
export function anyMessage(text: fc.Arbitrary<string>): fc.Arbitrary<Uint8Array> {
  const { message } = fc.letrec<{ message: Uint8Array; field: Uint8Array; value: Uint8Array }>((tie) => ({
    message: fc.array(tie('field'), { maxLength: 5 }).map((fields) => Buffer.concat(fields)),
    field: fc.oneof(
      fc.tuple(number, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })).map(([at, value]) => {
        return Buffer.concat([tag(at, VARINT), varint(value)]);
      }),
      fc.tuple(number, fixed(8)).map(([at, value]) => Buffer.concat([tag(at, FIXED64), value])),
      fc.tuple(number, fixed(4)).map(([at, value]) => Buffer.concat([tag(at, FIXED32), value])),
      {
        weight: 4,
        arbitrary: fc.tuple(number, tie('value')).map(([at, value]) => {
          return Buffer.concat([tag(at, LENGTH_DELIMITED), varint(BigInt(value.length)), value]);
        }),
      },
    ),
    value: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      text.map((each) => Buffer.from(each)),
      fc.uint8Array({ maxLength: 40 }),
      tie('message'),
    ),
  }));
  return message;
}

const number = fc.integer(FIELD_NUMBERS);

function fixed(bytes: number): fc.Arbitrary<Uint8Array> {
  return fc.uint8Array({ minLength: bytes, maxLength: bytes });
}

function tag(field: number, type: number): Uint8Array {
  return varint(BigInt((field << 3) | type));
}

function varint(value: bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest > 0x7fn) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  return Uint8Array.from([...bytes, Number(rest)]);
}
