#include "trace/trace-block_vhdx.h"
