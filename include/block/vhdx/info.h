/*
 * VHDX: what is told about an image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_INFO_H
#define BLOCK_VHDX_INFO_H

#include "block/vhdx/state.h"

/*
 * What the format has to say about the image, whose file is @missing bytes too
 * short.  The caller frees it.  No lock is held.
 */
ImageInfoSpecific *vhdx_info(BDRVVHDXState *s, uint64_t missing);

#endif
