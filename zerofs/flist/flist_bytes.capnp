# The schema of `flist.capnp` as the codec loads it: every Text is Data and Special.type is a number.
# Both lie on the wire exactly as before (a Text is a Data that ends in a NUL), but names and targets stay
# the bytes they are instead of being decoded as UTF-8, and a type from the future stays readable.
@0x9ff76d8c0b8b3f21;

struct FileBlock {
  hash @0 :Data;
  key  @1 :Data;
}

struct File {
  blockSize @0 :UInt16;     # unit 4096 bytes
  blocks    @1 :List(FileBlock);
}

struct Link {
  target @0 :Data;
}

struct Special {
  type @0 :UInt16;          # 0 socket, 1 block, 2 chardev, 3 fifopipe, 4 unknown
  data @1 :Data;
}

struct SubDir {
  key @0 :Data;
}

struct Inode {
  name @0 :Data;
  size @1 :UInt64;

  attributes :union {
    dir     @2 :SubDir;
    file    @3 :File;
    link    @4 :Link;
    special @5 :Special;
  }

  aclkey           @6 :Data;
  modificationTime @7 :UInt32;
  creationTime     @8 :UInt32;
}

struct Dir {
  name             @0 :Data;
  location         @1 :Data;
  contents         @2 :List(Inode);
  parent           @3 :Data;
  size             @4 :UInt64;
  aclkey           @5 :Data;
  modificationTime @6 :UInt32;
  creationTime     @7 :UInt32;
}

struct UserGroup {
  name   @0 :Data;
  iyoId  @1 :Data;
  iyoInt @2 :UInt64;
}

struct ACI {
  uname  @0 :Data;
  gname  @1 :Data;
  mode   @2 :UInt16;

  rights @3 :List(Right);
  struct Right {
    right       @0 :Data;
    usergroupid @1 :UInt16;
  }

  id  @4 :UInt32;
  uid @5 :Int64 = -1;
  gid @6 :Int64 = -1;
}
