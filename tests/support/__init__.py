"""What tests share: real servers, mounts in child processes, golden data, and the cleaning up."""
