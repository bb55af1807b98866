// Splits the chroma plane of NV12 (u v u v ...) into the two chroma planes of I420. One thread for each pair.
// split_chroma.ptx is this file, compiled (docs/gpu.md, "The kernel").
extern "C" __global__ void split_chroma(
    const unsigned char *pairs,  // first pair
    unsigned long long pitch,    // bytes from one row of pairs to the next
    unsigned char *u, unsigned char *v, unsigned int columns, unsigned int rows) {
  unsigned int x = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= columns || y >= rows) return;
  const unsigned char *pair = pairs + y * pitch + 2 * x;
  unsigned long long at = (unsigned long long)y * columns + x;
  u[at] = pair[0];
  v[at] = pair[1];
}
