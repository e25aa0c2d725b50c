/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "trace/trace-block_vhdx.h"
