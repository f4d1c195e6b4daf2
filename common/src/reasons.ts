import { status } from '@grpc/grpc-js';

/**
 * Every reason that an error of Holdfast can carry in its google.rpc.ErrorInfo, with the gRPC code that goes with it.
 * A reason is for programs and never changes its meaning; the message beside it is for people.
 */
export const reasons = {
  /** A field of the request is missing or malformed. */
  INVALID_REQUEST: status.INVALID_ARGUMENT,
  /** A name of a zone, host or repository has characters that names cannot have. */
  NAME_INVALID: status.INVALID_ARGUMENT,
  /** No setting has this key. */
  SETTING_UNKNOWN: status.INVALID_ARGUMENT,
  /** The value is not of the setting's type or outside its range. */
  SETTING_INVALID: status.INVALID_ARGUMENT,
  /** The passphrase does not open the zone's key, or the key does not open the backup. */
  KEY_WRONG: status.INVALID_ARGUMENT,
  /** The connection shows no certificate that is accepted: none, or an expired or a foreign one. */
  CERTIFICATE_REFUSED: status.UNAUTHENTICATED,
  /** The caller's certificate gives no role for this, or not in this zone. */
  PERMISSION_DENIED: status.PERMISSION_DENIED,
  ZONE_NOT_FOUND: status.NOT_FOUND,
  HOST_NOT_FOUND: status.NOT_FOUND,
  REPOSITORY_NOT_FOUND: status.NOT_FOUND,
  BACKUP_NOT_FOUND: status.NOT_FOUND,
  OPERATION_NOT_FOUND: status.NOT_FOUND,
  /** There is no key to be rotated, or none to be taken over. */
  KEY_NOT_FOUND: status.NOT_FOUND,
  /** No host that was asked knows the domain. */
  DOMAIN_NOT_FOUND: status.NOT_FOUND,
  /** The domain or the backup has no disk with this target name. */
  DISK_NOT_FOUND: status.NOT_FOUND,
  /** The Ceph cluster has no such RBD image or pool. */
  VOLUME_NOT_FOUND: status.NOT_FOUND,
  /** The agent knows no such job. */
  JOB_NOT_FOUND: status.NOT_FOUND,
  ZONE_EXISTS: status.ALREADY_EXISTS,
  HOST_EXISTS: status.ALREADY_EXISTS,
  REPOSITORY_EXISTS: status.ALREADY_EXISTS,
  /** A file that a restore would make is there already. */
  TARGET_EXISTS: status.ALREADY_EXISTS,
  /** The parts of the request belong to different zones. */
  ZONE_MISMATCH: status.FAILED_PRECONDITION,
  /** The domain's state (paused, crashed, ...) does not allow a backup. */
  DOMAIN_STATE: status.FAILED_PRECONDITION,
  /** The domain has no disk that can be backed up. */
  NO_DISKS: status.FAILED_PRECONDITION,
  /** A disk's kind of source or format cannot be read. */
  DISK_UNSUPPORTED: status.FAILED_PRECONDITION,
  /** The key to a volume's storage is missing, or its storage does not accept it. */
  VOLUME_REFUSED: status.FAILED_PRECONDITION,
  /** A source volume is encrypted and the backup would not be. */
  SOURCE_ENCRYPTED: status.FAILED_PRECONDITION,
  /** The controller does not know the zone key that opens the backup. */
  KEY_MISSING: status.FAILED_PRECONDITION,
  /** Encryption is on and there is no passphrase. */
  PASSPHRASE_MISSING: status.FAILED_PRECONDITION,
  /** The repository's directory is not there, not a directory or not writable. */
  REPOSITORY_UNUSABLE: status.FAILED_PRECONDITION,
  /** The repository could not be mounted: its address, export, credentials or options are wrong. */
  MOUNT_FAILED: status.FAILED_PRECONDITION,
  /** The repository is another file system than when it was added. */
  REPOSITORY_MISMATCH: status.FAILED_PRECONDITION,
  /** The directory for a restore is not there, not a directory or not writable. */
  DIRECTORY_UNUSABLE: status.FAILED_PRECONDITION,
  /** A quiesced backup was required and the guest could not be quiesced. */
  QUIESCE_FAILED: status.FAILED_PRECONDITION,
  /** The backup was to be pushed, and this host cannot: FUSE, its control file system or QEMU's view of the mount. */
  PUSH_UNUSABLE: status.FAILED_PRECONDITION,
  /** The certificate files of this process are missing, expired or do not belong together. */
  CERTIFICATE_UNUSABLE: status.FAILED_PRECONDITION,
  /** The domain's host is drained and takes no new work. */
  HOST_DRAINED: status.FAILED_PRECONDITION,
  /** The backup was taken without the digests that a level of verification compares. */
  DIGESTS_MISSING: status.FAILED_PRECONDITION,
  /** Something still refers to what shall be removed. */
  IN_USE: status.FAILED_PRECONDITION,
  /** What lies in the state directory cannot be used: by this version, with this key, or at all. */
  STATE_UNUSABLE: status.FAILED_PRECONDITION,
  /** The operation cannot be steered in this state. */
  OPERATION_STATE: status.FAILED_PRECONDITION,
  /** The command comes from a controller that was replaced. */
  STALE_EPOCH: status.FAILED_PRECONDITION,
  /** A backup of the domain is already running. */
  DOMAIN_BUSY: status.ABORTED,
  /** The stopped domain was started while its images were read. */
  DOMAIN_STARTED: status.ABORTED,
  /** An image was written to while it was read, although its domain is shut off on the host that read it. */
  IMAGE_CHANGED: status.ABORTED,
  /** The domain stopped, or its QEMU died, in the middle of the backup. */
  DOMAIN_STOPPED: status.ABORTED,
  /** The process that worked on the job died; what it had made was removed. */
  RUNNER_DIED: status.ABORTED,
  /** The caller calls more often than it may. */
  RATE_LIMITED: status.RESOURCE_EXHAUSTED,
  /** The caller, or all together, have as many open streams as may be. */
  TOO_MANY_STREAMS: status.RESOURCE_EXHAUSTED,
  /** The page that was asked for is larger than pages may be. */
  PAGE_TOO_LARGE: status.RESOURCE_EXHAUSTED,
  /** The message is larger than messages may be. */
  MESSAGE_TOO_LARGE: status.RESOURCE_EXHAUSTED,
  /** There is no space left on the repository. */
  REPOSITORY_FULL: status.RESOURCE_EXHAUSTED,
  /** There is not enough local scratch space to keep the guest's writes safe. */
  SCRATCH_FULL: status.RESOURCE_EXHAUSTED,
  /** The local scratch space cannot be written to. */
  SCRATCH_FAILED: status.UNAVAILABLE,
  /** The images did not pass the check, and were not published. */
  CHECK_FAILED: status.DATA_LOSS,
  /** The backup is not as it was published. */
  BACKUP_DAMAGED: status.DATA_LOSS,
  /** Reading from or writing to the repository failed. */
  REPOSITORY_FAILED: status.UNAVAILABLE,
  /** The repository did not answer in time. */
  REPOSITORY_STALLED: status.UNAVAILABLE,
  /** The storage of a volume did not answer in time. */
  VOLUME_STALLED: status.UNAVAILABLE,
  AGENT_UNREACHABLE: status.UNAVAILABLE,
  /** The controller's database does not answer, or its disk is full. */
  STATE_UNAVAILABLE: status.UNAVAILABLE,
  /** libvirt refused or did not answer. */
  LIBVIRT_FAILED: status.UNAVAILABLE,
  /** libvirt did not take the bandwidth limit, and the backup was not to go on without it. */
  LIMIT_NOT_APPLIED: status.UNAVAILABLE,
  /** QEMU's tools refused or died. */
  QEMU_FAILED: status.UNAVAILABLE,
  /** Nothing had moved for as long as the settings allow. */
  TIMED_OUT: status.DEADLINE_EXCEEDED,
  /** The operation was cancelled on request. */
  CANCELLED: status.CANCELLED,
  /** The service is stopping; the work goes on elsewhere. */
  SHUTTING_DOWN: status.UNAVAILABLE,
  /** A bug of Holdfast. The log of the service has the stack. */
  INTERNAL: status.INTERNAL,
} as const satisfies Record<string, status>;

export type Reason = keyof typeof reasons;

/** Whether a text is one of the reasons above. */
export function isReason(text: string): text is Reason {
  return Object.hasOwn(reasons, text);
}
