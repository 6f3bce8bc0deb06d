"""What a notebook holds: the case object, its displays and its scraps."""

import warnings

# notebooks show no progress bars, so that tqdm finds no widgets for them is no news to their reader
warnings.filterwarnings("ignore", message="IProgress not found")
