//! Who is asking: the credentials of a request, and whether they may touch the app it names.
