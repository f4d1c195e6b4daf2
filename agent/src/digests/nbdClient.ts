import { createConnection } from 'node:net';

/**
 * Reads from an NBD export, many requests at a time (nbd/doc/proto.md: fixed newstyle, NBD_OPT_GO, simple replies). There
 * is no such library for Node that is kept.
 */
export interface NbdClient {
  /** Reads into the buffer, all of it. */
  read(offset: number, into: Buffer): Promise<void>;
  close(): void;
}

/** The server could not read what was asked for; others can still be. */
export class NbdReadError extends Error {
  override readonly name = 'NbdReadError';
}

const GREETING_BYTES = 18;
const MAGIC_GREETING = 0x4e42444d41474943n;
const MAGIC_OPTION = 0x49484156454f5054n;
const MAGIC_OPTION_REPLY = 0x3e889045565a9n;
const MAGIC_REQUEST = 0x25609513;
const MAGIC_REPLY = 0x67446698;
/** NBD_FLAG_C_FIXED_NEWSTYLE and NBD_FLAG_C_NO_ZEROES. */
const CLIENT_FLAGS = 3;
const OPT_GO = 7;
const REP_ACK = 1;
const OPTION_HEADER_BYTES = 20;
const REPLY_BYTES = 16;

interface Read {
  readonly into: Buffer;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** Connects to an export of a server on a unix socket. */
export async function connectNbd(path: string, exportName: string): Promise<NbdClient> {
  const reads = new Map<bigint, Read>();
  const opened = Promise.withResolvers<undefined>();
  let lastHandle = 0n;
  let failure: Error | undefined;
  const fail = (error: Error): void => {
    failure ??= error;
    opened.reject(error);
    for (const { reject } of reads.values()) reject(error);
    reads.clear();
  };

  /** What the next bytes go into, and who is told when it is full: the kernel copies them there, and nobody else does. */
  let filling: Buffer = Buffer.alloc(GREETING_BYTES);
  let filled = 0;
  let onFull: (filled: Buffer) => void = onGreeting;
  const expect = (into: Buffer, next: (full: Buffer) => void): void => {
    filling = into;
    filled = 0;
    onFull = next;
  };
  const replyHeader = Buffer.alloc(REPLY_BYTES);
  let current: Read | undefined;

  function onGreeting(greeting: Buffer): void {
    if (greeting.readBigUInt64BE(0) !== MAGIC_GREETING || greeting.readBigUInt64BE(8) !== MAGIC_OPTION) {
      throw new Error('the server does not speak NBD');
    }
    const name = Buffer.from(exportName);
    const hello = Buffer.alloc(4 + 16 + 4 + name.length + 2);
    hello.writeUInt32BE(CLIENT_FLAGS, 0);
    hello.writeBigUInt64BE(MAGIC_OPTION, 4);
    hello.writeUInt32BE(OPT_GO, 12);
    hello.writeUInt32BE(4 + name.length + 2, 16);
    hello.writeUInt32BE(name.length, 20);
    name.copy(hello, 24);
    socket.write(hello);
    expect(Buffer.alloc(OPTION_HEADER_BYTES), onOptionReply);
  }
  function onOptionReply(reply: Buffer): void {
    if (reply.readBigUInt64BE(0) !== MAGIC_OPTION_REPLY) throw new Error('the server does not speak NBD');
    const type = reply.readUInt32BE(12);
    const length = reply.readUInt32BE(16);
    const done = (text: Buffer): void => {
      if (type >= 0x80000000) {
        throw new Error(`the server has no export ${JSON.stringify(exportName)}: ${text.toString()}`);
      }
      if (type !== REP_ACK) {
        expect(Buffer.alloc(OPTION_HEADER_BYTES), onOptionReply);
        return;
      }
      expect(replyHeader, onReply);
      opened.resolve(undefined);
    };
    if (length === 0) done(Buffer.alloc(0));
    else expect(Buffer.alloc(length), done);
  }
  function onReply(reply: Buffer): void {
    if (reply.readUInt32BE(0) !== MAGIC_REPLY) throw new Error('the server sent something else than a reply');
    const handle = reply.readBigUInt64BE(8);
    const read = reads.get(handle);
    if (read === undefined) throw new Error('the server answered what nobody asked');
    const error = reply.readUInt32BE(4);
    reads.delete(handle);
    if (error === 0) {
      current = read;
      expect(read.into, onData);
      return;
    }
    expect(replyHeader, onReply);
    read.reject(new NbdReadError(`reading failed, NBD error ${error}`));
  }
  function onData(): void {
    current?.resolve();
    current = undefined;
    expect(replyHeader, onReply);
  }

  const socket = createConnection({
    path,
    onread: {
      buffer: () => filling.subarray(filled),
      callback: (bytes) => {
        try {
          filled += bytes;
          if (filled === filling.length) onFull(filling);
        } catch (error) {
          fail(error as Error);
          socket.destroy();
        }
        return true;
      },
    },
  });
  socket.on('error', fail);
  socket.on('close', () => {
    const error = new Error('the server ended the connection');
    if (current !== undefined) current.reject(error);
    fail(error);
  });
  await opened.promise;
  return {
    read: (offset, into) =>
      new Promise((resolve, reject) => {
        if (failure !== undefined) {
          reject(failure);
          return;
        }
        const handle = ++lastHandle;
        reads.set(handle, { into, resolve, reject });
        const request = Buffer.alloc(28);
        request.writeUInt32BE(MAGIC_REQUEST, 0);
        request.writeBigUInt64BE(handle, 8);
        request.writeBigUInt64BE(BigInt(offset), 16);
        request.writeUInt32BE(into.length, 24);
        socket.write(request);
      }),
    close: () => {
      socket.destroy();
    },
  };
}
