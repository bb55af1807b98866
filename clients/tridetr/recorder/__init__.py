"""The recorder: saves the best picture and a clip of each visit if `evidence` is configured."""
