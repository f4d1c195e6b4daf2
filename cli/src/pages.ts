interface Page {
  readonly nextPageToken: string;
}

/** Every page of a list, each asked for when it is wanted. */
export async function* pages<Response extends Page>(
  fetch: (pageToken: string) => Promise<Response>,
): AsyncGenerator<Response> {
  let pageToken = '';
  do {
    const page = await fetch(pageToken);
    yield page;
    // The same token again would go round for ever.
    if (page.nextPageToken === pageToken) return;
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
}
