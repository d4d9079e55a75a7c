"""The command `dim-jax preview`, for who has not installed it."""

from dim_jax.commands.preview import main

if __name__ == '__main__':
  main()
