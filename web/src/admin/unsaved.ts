/** Nothing that was typed is lost by leaving a page without being asked. */

import { onBeforeUnmount, onMounted, type Ref } from 'vue'
import { onBeforeRouteLeave } from 'vue-router'
import { useConfirm } from '@/stores/confirm'

export function guardUnsaved(unsaved: Readonly<Ref<boolean>>): void {
  const confirm = useConfirm()
  onBeforeRouteLeave(() =>
    !unsaved.value
    || confirm.ask({
      title: 'Leave without saving?',
      text: 'What you have changed on this page is not saved yet.',
      yes: 'Leave',
      no: 'Stay',
      danger: true,
    }),
  )
  const hold = (event: BeforeUnloadEvent): void => {
    if (unsaved.value) event.preventDefault()
  }
  onMounted(() => addEventListener('beforeunload', hold))
  onBeforeUnmount(() => removeEventListener('beforeunload', hold))
}
