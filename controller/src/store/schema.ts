/**
 * The tables, one interface a row. Times are UTC in ISO 8601 with milliseconds, so that they sort as text; Booleans are
 * 0 and 1; `*_sealed` is encrypted under the master key; `*_message` is a protobuf message. All of it holds for
 * PostgreSQL as well.
 */
export interface Tables {
  /** One row: how many migrations were applied. */
  readonly schema_version: { readonly version: number };
  readonly controller_state: ControllerStateTable;
  readonly controllers: ControllerTable;
  readonly zones: ZoneTable;
  readonly settings: SettingTable;
  readonly setting_changes: SettingChangeTable;
  readonly hosts: HostTable;
  readonly repositories: RepositoryTable;
  readonly keys: KeyTable;
  readonly key_files: KeyFilesTable;
  readonly backups: BackupTable;
  readonly operations: OperationTable;
  readonly operation_events: OperationEventTable;
  readonly bandwidth_shares: BandwidthShareTable;
}

/** What there is one of. */
interface ControllerStateTable {
  readonly id: number;
  /** A known text under the master key: a wrong key is found at start. */
  readonly master_key_check_sealed: Uint8Array;
}

/** The controllers that work on the database, each under a name of its own, new with every start. */
interface ControllerTable {
  readonly id: string;
  /** Milliseconds since 1970 by the database's clock; from then on others may take over what it leads. */
  readonly lease_until_ms: number;
}

interface ZoneTable {
  readonly name: string;
  readonly create_time: string;
}

interface SettingTable {
  /** The zone, or empty for all zones. */
  readonly zone: string;
  readonly key: string;
  /** Null for a secure one. */
  readonly value: string | null;
  readonly value_sealed: Uint8Array | null;
  /** Empty when it was set before this was noted. */
  readonly change_time: string;
}

/** Kept for ever: what was changed by whom, and of a secure one only that. */
interface SettingChangeTable {
  readonly id: string;
  readonly time: string;
  readonly zone: string;
  readonly key: string;
  readonly old_value: string;
  readonly new_value: string;
  readonly unset: number;
  readonly caller: string;
  readonly correlation_id: string;
}

interface HostTable {
  readonly name: string;
  readonly zone: string;
  readonly address: string;
  readonly create_time: string;
  /** Texts by their keys, as JSON. */
  readonly labels: string;
  /** 1 while it takes no new work. */
  readonly drained: number;
}

interface RepositoryTable {
  readonly name: string;
  readonly zone: string;
  readonly type: number;
  /** Empty for one that is mounted. */
  readonly path: string;
  readonly create_time: string;
  /** Empty for a local one. */
  readonly address: string;
  /** A list of texts, as JSON. */
  readonly mount_options: string;
  /** What its id file says. */
  readonly repository_id: string;
  /** A RepositoryCredentials message; null without credentials. */
  readonly credentials_sealed: Uint8Array | null;
  /** How many scrubs of it in a row came to nothing. */
  readonly scrub_failures: number;
  /** Until when no scrub of it begins; null at any time. */
  readonly scrub_rest_until: string | null;
  /** Why it rests; empty when it does not. */
  readonly scrub_message: string;
}

export interface KeyTable {
  readonly id: string;
  readonly zone: string;
  /** `zone` for the one under the zone's passphrase, `request` for one under a passphrase that came with a request. */
  readonly origin: 'zone' | 'request';
  /** Empty while the key is missing. */
  readonly recipient: string;
  /**
   * `active` for the one that new backups are wrapped to, `retiring` while its backups are being wrapped to another,
   * `retired` when its secrets are gone, `missing` when backups need it and it is not here.
   */
  readonly state: 'active' | 'retiring' | 'retired' | 'missing';
  /** Empty while it is missing or retired, as is the passphrase. */
  readonly identity_sealed: Uint8Array;
  /** The passphrase under which the key file shall be. */
  readonly passphrase_sealed: Uint8Array;
  /** The age file of the identity under that passphrase; null until it is made. */
  readonly key_file: Uint8Array | null;
  /** Larger with every passphrase that it was put under. */
  readonly generation: number;
  readonly create_time: string;
  readonly retire_time: string | null;
}

/** A repository in which files of a key are not yet as they should be. */
interface KeyFilesTable {
  readonly key_id: string;
  readonly repository: string;
  /** What it waits for, for people; empty when it was not tried yet. */
  readonly message: string;
}

export interface BackupTable {
  readonly id: string;
  readonly zone: string;
  readonly host: string;
  readonly repository: string;
  readonly path: string;
  readonly domain_uuid: string;
  readonly domain_name: string;
  readonly snapshot_time: string;
  readonly virtual_size_bytes: number;
  readonly data_bytes: number;
  readonly stored_bytes: number;
  readonly transferred_bytes: number;
  readonly compressed: number;
  readonly encrypted: number;
  readonly quiesced: number;
  readonly key_id: string | null;
  readonly wrapped_key: Uint8Array | null;
  /** To which escrow recipients its key is wrapped too, see escrow.ts; anything else is wrapped anew. */
  readonly escrow_id: string;
  readonly manifest_message: Uint8Array;
  readonly manifest_sha256: string;
  readonly verify_time: string | null;
  readonly verify_level: string | null;
  readonly verify_intact: number | null;
  readonly verify_text: string | null;
  /** Warning messages as JSON: what was unusual about it. */
  readonly warnings: string;
  /** The last time that it was found intact. */
  readonly proof_time: string | null;
  readonly proof_level: string | null;
  readonly proof_operation: string | null;
  readonly proof_sample_percent: number | null;
  /**
   * Since when it is not proved at this level, or where it lacks the digests at the next one below: its last such proof, or
   * its snapshot. By the clock of the controller.
   */
  readonly metadata_unproved_since: string;
  readonly stored_unproved_since: string;
  readonly content_unproved_since: string;
  /** Until when no scrub is to take it; null at any time. */
  readonly scrub_postponed_until: string | null;
  /** Null while it is not known to be damaged. */
  readonly damage_time: string | null;
  readonly damage_level: string | null;
  readonly damage_operation: string | null;
  readonly damage_text: string | null;
}

export interface OperationTable {
  readonly id: string;
  readonly kind: number;
  readonly state: number;
  /** 1 until the operation has ended. */
  readonly active: number;
  readonly zone: string;
  readonly host: string;
  readonly repository: string;
  readonly backup_id: string;
  readonly domain_uuid: string;
  readonly domain_name: string;
  readonly create_time: string;
  /** An OperationOrigin. */
  readonly origin: number;
  /** 1 from when it was given a slot. One without limits may begin without. */
  readonly admitted: number;
  /** 1 when any fit host of the zone may do the work. */
  readonly any_host: number;
  readonly request_id: string | null;
  /** Keyed digest of the request, which may hold a passphrase. */
  readonly request_digest: string;
  /** What to tell the agent, secrets included; removed when the operation has ended. */
  readonly job_sealed: Uint8Array | null;
  /** 1 from just before the agent is told for the first time: from then on it may know the job. */
  readonly start_sent: number;
  /** 1 when the agent has taken the job on. */
  readonly accepted: number;
  readonly cancel_wanted: number;
  /** The controller that drives it. */
  readonly leader: string;
  /** The key that the backup is wrapped to, its generation and its escrow; empty, and 0, for all but encrypted backups. */
  readonly key_id: string;
  readonly key_generation: number;
  readonly key_escrow_id: string;
  /** Larger with every controller that takes it over, so that its agent can tell the present one from those before. */
  readonly fencing_epoch: number;
  /** The number of our latest event. */
  readonly last_sequence: number;
  /** The agent's number of the latest of its events that we have. */
  readonly agent_sequence: number;
  /** The operation as its events have made it. */
  readonly operation_message: Uint8Array;
}

/** What the running backups of a zone may use of its bandwidth. */
interface BandwidthShareTable {
  readonly operation_id: string;
  /** Bytes a second: no less than what is in force at the agent; -1 when nothing is known to be. */
  readonly granted: number;
  /** Bytes a second that it could use; -1 when any. */
  readonly wanted: number;
  /** Its own limit, bytes a second; -1 without one. */
  readonly ceiling: number;
}

interface OperationEventTable {
  readonly operation_id: string;
  readonly sequence: number;
  readonly event_message: Uint8Array;
}
