// Reads frames of a running node in place: read_frames INSTANCE CAMERA [COUNT]
//
// The layout of the file and the order of its locks are documented in clients/tridetr/shm/layout.py.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "frame_generated.h"

namespace {

constexpr uint64_t kMagic = 0x0152544544495254;  // "TRIDETR\x01", little-endian
constexpr uint64_t kLayoutVersion = 2;
constexpr int kSlotsWord = 4, kSlotSizeWord = 5, kFileSizeWord = 6, kSuccessorWord = 14;
constexpr int kNewestSlotWord = 16, kSequences = 128;
constexpr off_t kSlotByte = 1024;
constexpr uint64_t kPage = 4096;

struct Ring {
  int file = -1;
  const uint8_t* bytes = nullptr;
  uint64_t size = 0;

  const volatile uint64_t* words() const { return reinterpret_cast<const volatile uint64_t*>(bytes); }
  uint64_t slot_offset(uint64_t slot) const {
    const uint64_t header = (8 * (kSequences + words()[kSlotsWord]) + kPage - 1) / kPage * kPage;
    return header + slot * words()[kSlotSizeWord];
  }
};

// The generation with the highest number is the newest one.
std::string newest_file(const std::string& prefix) {
  long newest = 0;
  if (DIR* folder = opendir("/dev/shm")) {
    while (const dirent* entry = readdir(folder)) {
      const std::string name = entry->d_name;
      if (name.rfind(prefix, 0) == 0) newest = std::max(newest, atol(name.c_str() + prefix.size()));
    }
    closedir(folder);
  }
  return newest ? "/dev/shm/" + prefix + std::to_string(newest) : "";
}

bool map(const std::string& path, Ring& ring) {
  // For writing, because the kernel gives shared locks to readers of any file that they may open
  ring.file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat facts {};
  if (ring.file < 0 || fstat(ring.file, &facts) != 0) return false;
  ring.size = facts.st_size;
  void* address = mmap(nullptr, ring.size, PROT_READ, MAP_SHARED, ring.file, 0);
  if (address == MAP_FAILED) return false;
  ring.bytes = static_cast<const uint8_t*>(address);
  return ring.words()[0] == kMagic && ring.words()[1] == kLayoutVersion && ring.words()[kFileSizeWord] <= ring.size;
}

// A lock of this open file: the kernel frees it when the process ends, however it ends.
bool lock(const Ring& ring, uint64_t slot, short kind) {
  struct flock range {};
  range.l_type = kind;
  range.l_whence = SEEK_SET;
  range.l_start = kSlotByte + static_cast<off_t>(slot);
  range.l_len = 1;
  return fcntl(ring.file, F_OFD_SETLK, &range) == 0;
}

// Whether the ring goes on in another file, or its file was removed with the node.
bool is_gone(const Ring& ring) {
  struct stat facts {};
  return ring.words()[kSuccessorWord] != 0 || fstat(ring.file, &facts) != 0 || facts.st_nlink == 0;
}

int64_t now_ns() {
  timespec now {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// Prints the frame in a slot whose lock is held; false if it is not a valid Frame.
bool show(const Ring& ring, uint64_t slot) {
  const uint8_t* table = ring.bytes + ring.slot_offset(slot);
  flatbuffers::Verifier verifier(table, ring.words()[kSlotSizeWord]);
  if (!tridetr::VerifyFrameBuffer(verifier)) return false;
  const tridetr::Frame* frame = tridetr::GetFrame(table);
  const uint64_t luma = static_cast<uint64_t>(frame->width()) * frame->height();
  if (frame->pixels()->size() < luma * 3 / 2) return false;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < luma; i++) sum += frame->pixels()->Get(i);
  printf("frame %llu: %ux%u, %.1f ms old, brightness %llu\n",
         static_cast<unsigned long long>(frame->frame_number()), frame->width(), frame->height(),
         (now_ns() - static_cast<int64_t>(frame->capture_monotonic_ns())) / 1e6,
         static_cast<unsigned long long>(sum / luma));
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: read_frames INSTANCE CAMERA [COUNT]\n");
    return 2;
  }
  const std::string prefix = std::string("tridetr-") + argv[1] + "-" + argv[2] + "-frames-";
  int left = argc > 3 ? atoi(argv[3]) : 10;
  Ring ring;
  uint64_t after = 0;
  while (left > 0) {
    if (ring.bytes == nullptr || is_gone(ring)) {
      if (ring.bytes != nullptr) munmap(const_cast<uint8_t*>(ring.bytes), ring.size);
      if (ring.file >= 0) close(ring.file);
      ring = Ring();
      const std::string path = newest_file(prefix);
      if (path.empty() || !map(path, ring)) {
        fprintf(stderr, "no frames of camera %s of instance %s: is the node running?\n", argv[2], argv[1]);
        return 1;
      }
    }
    const uint64_t newest = ring.words()[kNewestSlotWord];  // a hint
    if (newest == 0 || newest > ring.words()[kSlotsWord] || !lock(ring, newest - 1, F_RDLCK)) {
      usleep(2000);
      continue;
    }
    // Under the lock what is seen stays: first the sequence, then the slot
    const uint64_t sequence = ring.words()[kSequences + newest - 1];
    const bool is_new = sequence > after;
    const bool is_valid = !is_new || show(ring, newest - 1);
    lock(ring, newest - 1, F_UNLCK);
    if (!is_valid) {
      fprintf(stderr, "slot %llu is damaged\n", static_cast<unsigned long long>(newest - 1));
      return 1;
    }
    if (is_new) {
      after = sequence;
      left--;
    } else {
      usleep(2000);
    }
  }
  return 0;
}
