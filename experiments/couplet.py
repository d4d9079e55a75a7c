"""The command `dim-jax couplet`, for who has not installed it."""

from dim_jax.commands.couplet import main

if __name__ == '__main__':
  main()
