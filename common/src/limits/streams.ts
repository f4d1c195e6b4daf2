/** How many streams are open, in all and for each caller. */
export interface StreamCount {
  readonly limits: StreamLimits;
  /** Notes a stream, and returns what notes its end; undefined when the caller, or all together, have too many. */
  open(caller: string): (() => void) | undefined;
  count(): number;
}

export interface StreamLimits {
  readonly inAll: number;
  readonly perCaller: number;
}

export function createStreamCount(limits: StreamLimits): StreamCount {
  const callers = new Map<string, number>();
  let inAll = 0;
  return {
    limits,
    count: () => inAll,
    open: (caller) => {
      const own = callers.get(caller) ?? 0;
      if (inAll >= limits.inAll || own >= limits.perCaller) return undefined;
      inAll++;
      callers.set(caller, own + 1);
      let open = true;
      return () => {
        if (!open) return;
        open = false;
        inAll--;
        const left = (callers.get(caller) ?? 1) - 1;
        if (left === 0) callers.delete(caller);
        else callers.set(caller, left);
      };
    },
  };
}
