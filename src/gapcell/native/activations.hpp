// tanh and the logistic function on vectors, each within about a unit in the last place over the whole range: training
// multiplies by 1 - tanh^2 and s (1 - s), which makes much of a small error where they saturate.
#pragma once

#include "simd.hpp"

namespace gapcell::GAPCELL_ISA {

// 1 + exp(x) for |x| <= 87, as 1 + 2^n exp(r) with n whole and |r| <= ln(2)/2.
GAPCELL_INLINE Vec one_plus_exp(Vec x) {
  const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec shifted = fused(x, all(1.44269504f), shift);
  const Vec n = shifted - shift;
  Vec r = fused(n, all(-0.693359375f), x);  // ln 2 in two parts, the first short enough that n times it is exact
  r = fused(n, all(2.12194440e-4f), r);
  Vec e = fused(r, all(1.9875691500e-4f), all(1.3981999507e-3f));  // (exp(r) - 1 - r) / r^2, Cephes' coefficients
  e = fused(e, r, all(8.3334519073e-3f));
  e = fused(e, r, all(4.1665795894e-2f));
  e = fused(e, r, all(1.6666665459e-1f));
  e = fused(e, r, all(5.0000001201e-1f));
  e = fused(e * r, r, r) + all(1.0f);
  // Multiplied, not added to the exponent's bits: NaN must stay NaN.
  const Bits power = (reinterpret_cast<Bits>(shifted) << 23) + (127u << 23);
  return fused(e, reinterpret_cast<Vec>(power), all(1.0f));
}

// Small results keep their digits: a forget gate of 1e-6 is not rounded to a multiple of 6e-8, as it would be by way of
// tanh.
GAPCELL_INLINE Vec sigmoid(Vec x) {
  const Vec y = at_least(at_most(x, all(87.0f)), all(-87.0f));
  return all(1.0f) / one_plus_exp(-y);
}

// 1 - 2 / (1 + exp(2 |x|)) with x's sign, and where that would cancel, near 0, x + x^3 P(x^2) with Cephes'
// coefficients.
GAPCELL_INLINE Vec tanh(Vec x) {
  const Bits sign = reinterpret_cast<Bits>(x) & 0x80000000u;
  const Vec size = reinterpret_cast<Vec>(reinterpret_cast<Bits>(x) ^ sign);
  const Vec y = at_most(size, all(10.0f));  // from 9.02 on tanh is 1 in fp32
  const Vec far = all(1.0f) - all(2.0f) / one_plus_exp(y + y);
  const Vec z = x * x;
  Vec p = fused(z, all(-5.70498872745e-3f), all(2.06390887954e-2f));
  p = fused(p, z, all(-5.37397155531e-2f));
  p = fused(p, z, all(1.33314422036e-1f));
  p = fused(p, z, all(-3.33332819422e-1f));
  const Vec near = fused(p * z, x, x);
  const Vec signed_far = reinterpret_cast<Vec>(reinterpret_cast<Bits>(far) | sign);
  return size < all(0.625f) ? near : signed_far;  // NaN takes the second, and is NaN there
}

}  // namespace gapcell::GAPCELL_ISA
