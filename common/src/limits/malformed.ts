import {
  ServerInterceptingCall,
  status,
  type ServerInterceptor,
  type ServiceDefinition,
} from '@grpc/grpc-js';
import { HoldfastError, toServiceError } from '../errors.ts';

/** What stands for a message that could not be read, on its way to `refuseMalformed`. */
const MALFORMED = Symbol('a message that cannot be read');

/** The definition of a service that goes on when a message cannot be read: gRPC itself would answer INTERNAL. */
export function readingMalformed(definition: ServiceDefinition): ServiceDefinition {
  return Object.fromEntries(
    Object.entries(definition).map(([name, method]) => [
      name,
      {
        ...method,
        requestDeserialize: (bytes: Buffer): unknown => {
          try {
            return method.requestDeserialize(bytes);
          } catch {
            return MALFORMED;
          }
        },
      },
    ]),
  );
}

/** Answers INVALID_ARGUMENT to a message that cannot be read. */
export const refuseMalformed: ServerInterceptor = (method, call) => {
  let refused = false;
  return new ServerInterceptingCall(call, {
    start: (next) => {
      next({
        onReceiveMessage: (message, pass) => {
          if (refused) return;
          if (message !== MALFORMED) {
            pass(message);
            return;
          }
          refused = true;
          const error = toServiceError(
            new HoldfastError(
              'INVALID_REQUEST',
              `The message to ${method.path} cannot be read: it is not what the contract says.`,
            ),
          );
          call.sendStatus({ code: error.code, details: error.details, metadata: error.metadata });
        },
      });
    },
  });
};

/** What gRPC says of a message that does not decompress, and of a deadline that is none. */
const FAULTS_OF_THE_CALLER = /^(?:Failed to decompress message$|Invalid grpc-timeout value )/;

/**
 * Answers INVALID_ARGUMENT where gRPC finds a fault of the caller's before there is a message, and says INTERNAL. It says so
 * on its own call, past all interceptors, so that this must be the first one, which is given that call.
 */
export const blameCaller: ServerInterceptor = (method, call) => {
  const sendStatus = call.sendStatus.bind(call);
  call.sendStatus = (given) => {
    if (given.code !== status.INTERNAL || !FAULTS_OF_THE_CALLER.test(given.details)) {
      sendStatus(given);
      return;
    }
    const message = `The call of ${method.path} cannot be read: ${given.details}.`;
    const { code, details, metadata } = toServiceError(new HoldfastError('INVALID_REQUEST', message));
    sendStatus({ code, details, metadata });
  };
  return new ServerInterceptingCall(call);
};
