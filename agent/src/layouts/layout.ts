import { Secret } from '@holdfast/common/secret.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { DomainId } from '../libvirt/domains.ts';
import type { DomainDisk } from '../libvirt/domainXml.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import type { ImageLayout } from '../qemu/layout.ts';
import type { Repository } from '../repository/repository.ts';
import type { WriteFile } from '../repository/savedFile.ts';
import type { DomainState } from '../stages/readState.ts';
import type { SavedState } from '../stages/writeState.ts';
import { cloudStackLayout } from './cloudstack.ts';
import { nativeLayout } from './native.ts';

/** How a backup lies on its repository: the names of its folder and files, and what is written beside the images. */
export interface BackupLayout {
  /** Whether it keeps what makes a domain beside its disks and its XML, such as UEFI variables. */
  readonly keepsState: boolean;
  /** The backup's folder under its final name, relative to the repository. */
  folder(domain: DomainId, at: Date): string;
  /**
   * The names of the image files, one for each disk, in their order.
   *
   * @throws HoldfastError DISK_UNSUPPORTED when a disk cannot be named.
   */
  imageNames(disks: readonly DomainDisk[], image: ImageLayout): Promise<readonly string[]>;
  /** Makes the repository ready for a backup of this layout, before its folder is made. */
  ready(repository: Repository, folder: string): Promise<void>;
  /** What is kept of the domain beside its disks, asked while it is surely there. */
  domainFiles(virsh: Virsh, subject: Described): Promise<readonly BackupFile[]>;
  /** Writes what lies beside the images when they are done; the manifest, when there is one, last. */
  writeCompanions(write: WriteFile, facts: Facts): Promise<Companions>;
}

/** The domain that is backed up. */
export interface Described {
  readonly domain: DomainId;
  readonly running: boolean;
  /** The XML of the domain as it is. */
  readonly liveXml: string;
  /** The XML that restores the domain. */
  readonly persistentXml: string;
}

/** A file in a backup's folder. */
export interface BackupFile {
  readonly name: string;
  readonly content: Uint8Array;
}

/** What the companions are made from. */
export interface Facts {
  readonly domainFiles: readonly BackupFile[];
  /** All that the backup says of itself but for its companions. */
  readonly manifest: Omit<Manifest, 'domainXmlFile' | 'domainXmlSha256' | 'encryption' | keyof SavedState>;
  /** Undefined when the layout keeps none. */
  readonly state: DomainState | undefined;
  readonly key: Secret | undefined;
}

export interface Companions {
  readonly manifest: Manifest;
  /** Of manifest.json, in hexadecimal; empty when the layout has none. */
  readonly manifestSha256: string;
}

/** The layout that a backup was asked for in. */
export function layoutOf(start: TakeBackupStart): BackupLayout {
  return start.cloudstack === undefined
    ? nativeLayout(start.backupId, start.key)
    : cloudStackLayout(start.cloudstack.folder);
}

/** What LUKS opens with; undefined for a backup that is not encrypted. */
export function keyOf(start: TakeBackupStart): Secret | undefined {
  const secret = start.key?.secret ?? start.passphrase;
  return secret === '' ? undefined : new Secret(secret);
}
